from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from formgate.constrain.compiler import GrammarCompiler
from formgate.gateway.answers.answer_plan import AnswerPlan, AnswerPlanner
from formgate.gateway.answers.tool_choice import NO_TOOLS, tool_use
from formgate.gateway.errors import ApiError
from formgate.gateway.metrics import Metrics
from formgate.gateway.model.model_profile import ModelProfile
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.completion import CompletionRequest
from formgate.gateway.protocol.parse import parse_object

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}


def tool(name: str, parameters: Any = None, **fields: Any) -> dict[str, Any]:
    function = {"name": name, "parameters": parameters, **fields}
    return {"type": "function", "function": function}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def request_of(**fields: Any) -> ChatCompletionRequest:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    return parse_object(ChatCompletionRequest, body)


def plan(
    planner: AnswerPlanner, prompt_token_ids: list[int] | None = None, **fields: Any
) -> AnswerPlan:
    return asyncio.run(planner.plan_chat(request_of(**fields), prompt_token_ids or [1, 3, 4]))


def json_schema(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


class Walk:
    """Whether a plan's constraint lets a text through, and whether it may end there."""

    def __init__(self, compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
        self._compiler = compiler
        self._tokenizer = tokenizer

    def __call__(self, plan: AnswerPlan, text: str) -> bool:
        assert plan.constraint is not None
        constraint = self._compiler.factory(plan.constraint)
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        for token_id in (*ids, self._tokenizer.eos_ids[0]):
            row = np.zeros(16, np.int32)
            if constraint.fill_bitmask(row) and not row[token_id >> 5] >> (token_id & 31) & 1:
                return False
            constraint.accept(token_id)
        return True


@pytest.fixture(scope="module")
def walk(compiler: GrammarCompiler, tokenizer: Tokenizer) -> Walk:
    return Walk(compiler, tokenizer)


CALL_F = '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}]'
CALL_G = '[TOOL_CALLS] [{"name": "g", "arguments": {}}]'
BOTH = '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]'
TOOLS = [tool("f", SCHEMA), tool("g")]


@pytest.mark.parametrize(
    ("fields", "allowed", "refused"),
    [
        ({}, ["Hello", CALL_F, CALL_G, BOTH, "Well. " + CALL_F], [CALL_F.replace("1", '"x"')]),
        ({"tool_choice": "required"}, [CALL_F, BOTH], ["Hello"]),
        ({"tool_choice": named("f")}, [CALL_F], ["Hello", CALL_G, BOTH]),
        ({"parallel_tool_calls": False}, ["Hello", CALL_F], [BOTH]),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "required", "tools": [named("g")]},
                }
            },
            [CALL_G],
            ["Hello", CALL_F, BOTH],
        ),
        (
            {"response_format": json_schema(SCHEMA)},
            ['{"a": 1}', CALL_F],
            ["Hello", '{"a": "x"}'],
        ),
    ],
    ids=["auto", "required", "named", "one call", "allowed_tools", "response_format"],
)
def test_what_a_plan_lets_through(
    planner: AnswerPlanner,
    walk: Walk,
    fields: dict[str, Any],
    allowed: list[str],
    refused: list[str],
) -> None:
    made = plan(planner, tools=TOOLS, **fields)
    assert [text for text in allowed if not walk(made, text)] == []
    assert [text for text in refused if walk(made, text)] == []


def test_the_schema_begins_after_the_reasoning(
    planner: AnswerPlanner, walk: Walk, tokenizer: Tokenizer
) -> None:
    thinking = tokenizer.encode("<s>[INST]x[/INST]<think>\n", add_special_tokens=False)
    made = plan(planner, thinking, response_format=json_schema(SCHEMA))
    assert walk(made, 'It is 1.\n</think>\n\n{"a": 1}')
    assert not walk(made, '{"a": 1}')
    assert not walk(made, "It is 1.\n</think>\n\nIt is 1.")


@pytest.mark.parametrize(
    ("fields", "good", "bad"),
    [
        ({"guided_regex": "[ab]+"}, "abba", "abc"),
        ({"guided_choice": ["yes", "no"]}, "yes", "maybe"),
        ({"structured_outputs": {"json_object": True}}, '{"x": [1]}', "[1]"),
        ({"guided_json": SCHEMA}, '{"a": 5}', '{"b": 5}'),
        ({"guided_grammar": 'start: "a" "b"*'}, "abb", "ba"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_every_kind_of_constraint_is_enforced(
    planner: AnswerPlanner, walk: Walk, fields: dict[str, Any], good: str, bad: str
) -> None:
    request = parse_object(CompletionRequest, {"prompt": "x", **fields})
    for made in (plan(planner, **fields), asyncio.run(planner.plan_completion(request))):
        assert walk(made, good)
        assert not walk(made, bad)


BAD = {"type": "object", "properties": {"a/b": {"type": "array", "$dynamicRef": "#x"}}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": json_schema(BAD)}, "response_format.json_schema.schema#/"),
        ({"guided_json": BAD}, "guided_json#/properties/a~1b"),
        (
            {"tools": [tool("f", SCHEMA), tool("g", BAD, strict=True)]},
            "tools[1].function.parameters#/",
        ),
        (
            {"tools": [tool("g", BAD, strict=True)], "response_format": json_schema(SCHEMA)},
            "tools[0].function.parameters#/",
        ),
        ({"guided_regex": "(a"}, "guided_regex"),
        ({"guided_grammar": "start: nothing_like_it"}, "guided_grammar"),
        ({"guided_json": {"const": float("nan")}}, "guided_json"),
        ({"tools": [tool("f", {"type": "string"})]}, "tools[0].function.parameters#/type"),
        ({"tools": [tool("f", False)]}, "tools[0].function.parameters"),
    ],
)
def test_a_constraint_that_cannot_be_kept_is_a_400_that_points_at_it(
    planner: AnswerPlanner, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(ApiError) as refused:
        plan(planner, **fields)
    assert refused.value.status == 400
    assert (refused.value.param or "").startswith(param)


def test_refusals_and_compiles_are_counted(planner: AnswerPlanner, metrics: Metrics) -> None:
    def value(name: str) -> float:
        labels = {"model_name": "tiny", "engine": "0"}
        return metrics.registry.get_sample_value(name, labels) or 0

    for _ in range(3):
        plan(planner, response_format=json_schema({**SCHEMA, "title": "counted"}))
    assert value("formgate:grammar_cache_queries_total") == 3
    assert value("formgate:grammar_cache_hits_total") == 2
    assert value("formgate:grammar_wait_seconds_count") == 1
    with pytest.raises(ApiError):
        plan(planner, response_format=json_schema(BAD))
    assert "formgate:schemas_refused_total" in metrics.exposition().decode()


def test_nothing_to_constrain(planner: AnswerPlanner) -> None:
    assert plan(planner).constraint is None
    assert plan(planner, tools=TOOLS, tool_choice="none").constraint is None
    assert plan(planner, tools=[], tool_choice="auto").constraint is None


def test_a_model_without_tool_calls_says_so(
    profile: ModelProfile, compiler: GrammarCompiler, planner: AnswerPlanner, metrics: Metrics
) -> None:
    planner._profile = replace(profile, tool_format=None)
    with pytest.raises(ApiError) as refused:
        plan(planner, tools=TOOLS)
    assert refused.value.param == "tools"
    assert plan(planner, response_format=json_schema(SCHEMA)).constraint is not None


def test_arguments_are_those_that_the_function_names() -> None:
    def schema(parameters: Any) -> Any:
        use = tool_use(request_of(tools=[tool("f", parameters)]), auto_tool_choice=True)
        return json.loads(json.dumps(use.tools[0].schema))

    nothing = {"type": "object", "properties": {}, "additionalProperties": False}
    assert schema(None) == nothing
    assert schema({}) == nothing
    assert schema({"type": "object", "properties": {}}) == nothing
    assert schema({"properties": {"a": {}}})["additionalProperties"] is False
    open_map = {"type": "object", "additionalProperties": {"type": "integer"}}
    assert schema(open_map) == open_map
    assert schema({"type": "object"}) == {"type": "object"}


def test_tools_are_the_models_choice_only_where_the_server_lets_it() -> None:
    request = request_of(tools=[tool("f")])
    assert tool_use(request, auto_tool_choice=False) == NO_TOOLS
    assert tool_use(request, auto_tool_choice=True).mode == "auto"
