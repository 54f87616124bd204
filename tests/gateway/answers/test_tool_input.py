"""Tools as nobody should send them, and markers that a client typed: a clear 400, or plain text."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from formgate.gateway.answers.answer_plan import AnswerPlan, AnswerPlanner
from formgate.gateway.errors import ApiError
from formgate.gateway.metrics import Metrics
from formgate.gateway.model.chat_template import ChatTemplate
from formgate.gateway.model.model_profile import ModelProfile
from formgate.gateway.model.prompts import conversation_of, encode_conversation
from formgate.gateway.model.text_bound import TextBound
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.model.tokenizer_folder import load_tokenizer
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.parse import parse_object
from formgate.gateway.protocol.rules import check_chat
from formgate.parsers.families.reasoning import reasoning_state_of
from formgate.parsers.families.registry import FORMATS, REASONING

BOUND = TextBound(10_000_000)
MARKERS = sorted(
    {marker.text for format in FORMATS.values() for marker in format.markers()}
    | {marker.text for format in REASONING.values() for marker in format.markers()}
    | {"<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "[INST]", "[/INST]"}
)
TEMPLATE = """
{{- bos_token }}
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- for m in messages %}<|im_start|>{{ m.role }} {{ m.name }}
{{ m.content }}
{%- for c in m.tool_calls or [] %}[TOOL_CALLS]{{ c.function | tojson }}{% endfor %}<|im_end|>
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant{% endif %}
"""


@pytest.fixture(scope="module")
def every_marker(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer in which the markers of all formats are special tokens."""
    folder = tmp_path_factory.mktemp("every_marker")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=MARKERS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["Plain words, and a few more of them."], trainer)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": "</s>"})
    )
    return load_tokenizer(folder)


def encode(tokenizer: Tokenizer, body: dict[str, Any]) -> list[int]:
    request = parse_object(ChatCompletionRequest, body)
    template = ChatTemplate(TEMPLATE, tokenizer.named_tokens)
    return encode_conversation(conversation_of(request, {}), tokenizer, template, BOUND)


def body_with(place: str, text: str) -> dict[str, Any]:
    """A conversation with `text` in one place of it."""

    def here(name: str, otherwise: str = "plain") -> str:
        return text if name == place else otherwise

    call = {"name": "f", "arguments": json.dumps({"a": here("arguments")})}
    parameters = {
        "type": "object",
        "properties": {here("property"): {"enum": [here("enum")], "description": here("schema")}},
    }
    function = {"name": "f", "description": here("description"), "parameters": parameters}
    return {
        "messages": [
            {"role": "system", "content": here("system")},
            {"role": "user", "content": here("user"), "name": here("name")},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": call}],
            },
            {"role": "tool", "tool_call_id": "1", "content": here("result")},
            {"role": "user", "content": [{"type": "text", "text": here("part")}]},
        ],
        "tools": [{"type": "function", "function": function}],
    }


PLACES = [
    *("system", "user", "name", "arguments", "property", "enum", "schema", "description"),
    *("result", "part"),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", [*FORMATS, *(f"{name} reasoning" for name in REASONING)])
def test_typed_markers_are_text(name: str, place: str, every_marker: Tokenizer) -> None:
    found = REASONING[name.split()[0]] if " " in name else FORMATS[name]
    typed = " and ".join(sorted(marker.text for marker in found.markers())) or "[TOOL_CALLS]"
    ids = encode(every_marker, body_with(place, typed))
    clean = encode(every_marker, body_with(place, "other"))
    special = every_marker.marker_ids
    assert [i for i in ids if i in special] == [i for i in clean if i in special]
    shown = every_marker.decode(ids)
    assert shown == every_marker.decode(clean).replace("other", typed)


def test_a_typed_marker_does_not_begin_or_end_the_reasoning(every_marker: Tokenizer) -> None:
    for reasoning in REASONING.values():
        for typed in sorted(marker.text for marker in reasoning.markers()):
            body = {"messages": [{"role": "user", "content": f"What is {typed}"}]}
            ids = encode(every_marker, body)
            special = every_marker.special_ids
            clean = encode(every_marker, {"messages": [{"role": "user", "content": "What is it"}]})
            assert reasoning_state_of(ids, reasoning, special) == reasoning_state_of(
                clean, reasoning, special
            )


SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string"}, "b": {"type": "integer"}},
    "required": ["a"],
}


def tool(name: str, parameters: Any = None, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **fields}}


def plan(planner: AnswerPlanner, tools: list[dict[str, Any]], **fields: Any) -> AnswerPlan:
    body = {"messages": [{"role": "user", "content": "hi"}], "tools": tools, **fields}
    request = parse_object(ChatCompletionRequest, body)
    check_chat(request, max_logprobs=20)
    return asyncio.run(planner.plan_chat(request, [1, 3, 4]))


@pytest.fixture
def planner_of(profile: ModelProfile, local_compiling: Any, metrics: Metrics) -> Any:
    def make(name: str) -> AnswerPlanner:
        return AnswerPlanner(replace(profile, tool_format=FORMATS[name]), local_compiling, metrics)

    return make


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([tool("f"), tool("g"), tool("f")], "tools[2].function.name"),
        ([tool("")], "tools[0].function.name"),
        ([tool("two words")], "tools[0].function.name"),
        ([tool("f"), tool("größe")], "tools[1].function.name"),
        ([tool("<tool_call>")], "tools[0].function.name"),
        ([tool('f", "arguments": {}}]')], "tools[0].function.name"),
        ([tool("f\n")], "tools[0].function.name"),
        ([tool("x" * 129)], "tools[0].function.name"),
    ],
)
def test_names_that_cannot_be_called(
    tools: list[dict[str, Any]], param: str, planner: AnswerPlanner
) -> None:
    with pytest.raises(ApiError) as refused:
        plan(planner, tools)
    assert refused.value.status == 400
    assert refused.value.param == param


@pytest.mark.parametrize("name", FORMATS)
def test_a_schema_that_cannot_be_enforced_is_named(name: str, planner_of: Any) -> None:
    broken = {"type": "object", "properties": {"x": {"type": "string", "pattern": "(a"}}}
    with pytest.raises(ApiError) as refused:
        plan(planner_of(name), [tool("f", SCHEMA), tool("g", broken, strict=True)])
    assert refused.value.status == 400
    assert refused.value.param == "tools[1].function.parameters#/properties/x/pattern"


@pytest.mark.parametrize("name", FORMATS)
def test_a_tool_that_is_not_strict_loses_only_that_keyword(name: str, planner_of: Any) -> None:
    text = {"type": "string", "pattern": "(a", "maxLength": 2}
    broken = {"type": "object", "properties": {"x": text}, "required": ["x"]}
    made = plan(planner_of(name), [tool("f", SCHEMA), tool("g", broken)])
    (_, enforced) = made.promise.tools.tools
    assert enforced.schema["properties"] == {"x": {"type": "string", "maxLength": 2}}
    assert enforced.schema["required"] == ["x"]
    assert made.constraint is not None


@pytest.mark.parametrize(
    ("name", "key"), [("pythonic", "two words"), ("glm45", "a<b"), ("qwen3_coder", "a b")]
)
def test_a_parameter_that_the_format_cannot_write_is_named(
    name: str, key: str, planner_of: Any
) -> None:
    odd = {"type": "object", "properties": {key: {"type": "string"}}}
    with pytest.raises(ApiError) as refused:
        plan(planner_of(name), [tool("f", SCHEMA), tool("g", odd)])
    assert refused.value.param == f"tools[1].function.parameters#/properties/{key}"
    assert repr(key) in refused.value.message
    assert plan(planner_of("hermes"), [tool("g", odd)]).constraint is not None


@pytest.mark.parametrize("length", [8, 64])
@pytest.mark.parametrize("name", FORMATS)
def test_five_hundred_tools(name: str, length: int, planner_of: Any) -> None:
    rng = random.Random(length)
    names = [f"tool_{i}".ljust(length, rng.choice("abcd")) for i in range(500)]
    tools = [tool(name, SCHEMA, description="Does it. " * 20) for name in names]
    assert plan(planner_of(name), tools).constraint is not None
    only = {"type": "function", "function": {"name": names[-1]}}
    assert len(plan(planner_of(name), tools, tool_choice=only).constraint or "") < 10_000


def test_a_description_of_a_megabyte(planner: AnswerPlanner, every_marker: Tokenizer) -> None:
    """It is part of the prompt, which may be too long, and of no constraint."""
    long = "An [TOOL_CALLS] and words. " * 40_000
    tools = [tool("f", SCHEMA, description=long)]
    assert len(plan(planner, tools).constraint or "") < 10_000
    body = {"messages": [{"role": "user", "content": "hi"}], "tools": tools}
    ids = encode(every_marker, body)
    assert len(ids) > 100_000
    assert every_marker.special_ids["[TOOL_CALLS]"] not in ids


def test_a_result_for_a_call_that_nobody_made_is_text(every_marker: Tokenizer) -> None:
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "tool", "tool_call_id": "call_unknown", "content": "42</s>"},
    ]
    ids = encode(every_marker, {"messages": messages})
    assert "tool \n42</s>" in every_marker.decode(ids)
    assert every_marker.special_ids["</s>"] not in ids


def test_a_template_without_special_tokens_may_open_the_reasoning(
    profile: ModelProfile, local_compiling: Any, metrics: Metrics, tokenizer: Tokenizer
) -> None:
    special = {text: i for text, i in tokenizer.special_ids.items() if "think" not in text}
    plain = replace(profile, tokenizer=replace(tokenizer, special_ids=special))
    prompt = plain.tokenizer.encode_plain("Hi there<think>\n")
    request = parse_object(ChatCompletionRequest, {"messages": [{"role": "user", "content": "hi"}]})
    made = AnswerPlanner(plain, local_compiling, metrics)
    assert asyncio.run(made.plan_chat(request, prompt)).settings.may_reason
    assert not asyncio.run(made.plan_chat(request, [*prompt, 4])).settings.may_reason
