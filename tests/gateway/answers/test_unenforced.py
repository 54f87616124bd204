"""A tool that is not strict loses what cannot be enforced and nothing else, and that is told."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest

from formgate.gateway.answers.answer_plan import AnswerPlan, AnswerPlanner
from formgate.gateway.answers.caller import Caller, set_caller
from formgate.gateway.answers.unenforced import MAX_HEADER, MOST_LEFT_OUT
from formgate.gateway.errors import ApiError
from formgate.gateway.metrics import Metrics
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.parse import parse_object

LOOK_BEHIND = {"type": "string", "pattern": "(?<=a)b", "maxLength": 3}


def tool(name: str, properties: dict[str, Any], **fields: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters, **fields}}


def plan(planner: AnswerPlanner, tools: Any, **fields: Any) -> tuple[AnswerPlan, str]:
    """The plan, and the response's header."""
    body = {"messages": [{"role": "user", "content": "x"}], "tools": tools, **fields}
    caller = Caller()

    async def made() -> AnswerPlan:
        set_caller(caller)
        return await planner.plan_chat(parse_object(ChatCompletionRequest, body), [1, 2, 3])

    return asyncio.run(made()), caller.unenforced


def test_every_keyword_is_left_out_and_told_once(
    planner: AnswerPlanner, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    tools = [
        tool("f", {"x": LOOK_BEHIND, "y": {"$ref": "http://x/y"}, "z": {"type": "integer"}}),
        tool("g", {"x": {"type": "integer", "not": {"multipleOf": 3}}}),
        tool("h", {"x": {"type": "string", "pattern": "^a+$"}}),
    ]
    headers = []
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            made, header = plan(planner, tools)
            headers.append(header)
            f, g, h = (each.schema["properties"] for each in made.promise.tools.tools)
            assert f == {"x": {"type": "string", "maxLength": 3}, "y": {}, "z": {"type": "integer"}}
            assert g == {"x": {"type": "integer"}}
            assert h == {"x": {"type": "string", "pattern": "^a+$"}}
    assert len(caplog.records) == 3
    assert len(set(headers)) == 1
    assert set(headers[0].split(", ")) == {
        "tool=f; keyword=pattern; pointer=/properties/x/pattern",
        "tool=f; keyword=%24ref; pointer=/properties/y/%24ref",
        "tool=g; keyword=not; pointer=/properties/x/not",
    }
    text = metrics.exposition().decode()
    for keyword in ("pattern", "$ref", "not"):
        line = f'formgate:tool_keywords_unenforced_total{{engine="0",keyword="{keyword}"'
        assert f'{line},model_name="tiny"}} 3.0' in text
    assert "formgate:schemas_refused_total{" not in text


@pytest.mark.parametrize(
    ("tools", "fields", "strict", "param"),
    [
        ([tool("f", {"x": LOOK_BEHIND}, strict=True)], {}, False, "tools[0]"),
        ([tool("f", {"x": LOOK_BEHIND})], {}, True, "tools[0]"),
        (
            [tool("f", {"x": LOOK_BEHIND}), tool("g", {"y": LOOK_BEHIND}, strict=True)],
            {},
            False,
            "tools[1]",
        ),
        ([tool("f", {"x": LOOK_BEHIND})], {"json_schema": LOOK_BEHIND}, False, "json_schema"),
        ([tool("f", {"x": {"type": "strin"}})], {}, False, "tools[0]"),
        ([tool("f", {str(i): LOOK_BEHIND for i in range(99)})], {}, False, "tools[0]"),
    ],
    ids=["strict", "--strict-tools", "other", "content", "invalid", "many"],
)
def test_all_else_is_refused(
    tools: Any,
    fields: dict[str, Any],
    strict: bool,
    param: str,
    profile: Any,
    local_compiling: Any,
    metrics: Metrics,
) -> None:
    planner = AnswerPlanner(replace(profile, strict_tools=strict), local_compiling, metrics)
    with pytest.raises(ApiError) as refused:
        plan(planner, tools, **fields)
    assert refused.value.status == 400
    assert (refused.value.param or "").startswith(param)


def test_a_schema_that_is_no_json_is_refused_after_another_was_loosened(
    planner: AnswerPlanner,
) -> None:
    assert plan(planner, [tool("f", {"x": LOOK_BEHIND})])[1]
    with pytest.raises(ApiError) as refused:
        plan(planner, [tool("f", {"x": {"const": float("nan")}})])
    assert refused.value.status == 400


def test_a_tool_without_any_arguments_is_refused(planner: AnswerPlanner) -> None:
    empty = {"type": "integer", "minimum": 5, "maximum": 3}
    parameters = {"type": "object", "properties": {"x": empty}, "required": ["x"]}
    function = {"name": "f", "parameters": parameters}
    with pytest.raises(ApiError) as refused:
        plan(planner, [{"type": "function", "function": function}])
    assert "no value at all" in refused.value.message


def test_the_header_is_short(planner: AnswerPlanner) -> None:
    names = [f"{i}{'é' * 60}" for i in range(MOST_LEFT_OUT - 1)]
    _, header = plan(planner, [tool("f", dict.fromkeys(names, LOOK_BEHIND))])
    assert header.isascii()
    assert len(header) < MAX_HEADER + 200
    assert header.endswith(" more")
