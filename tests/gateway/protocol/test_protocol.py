from __future__ import annotations

import json
from typing import Any

import pytest

from formgate.gateway.errors import ApiError
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.completion import CompletionRequest
from formgate.gateway.protocol.constraints import content_constraint
from formgate.gateway.protocol.parse import parse_body
from formgate.gateway.protocol.rules import check_chat, check_completion

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
OBJECT = {"type": "object"}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}


def chat(**fields: Any) -> ChatCompletionRequest:
    body = json.dumps({"model": "m", "messages": [USER], **fields})
    request = parse_body(ChatCompletionRequest, body)
    check_chat(request, max_logprobs=20)
    content_constraint(request)
    return request


def completion(**fields: Any) -> CompletionRequest:
    request = parse_body(CompletionRequest, json.dumps({"model": "m", "prompt": "hi", **fields}))
    check_completion(request, max_logprobs=20)
    content_constraint(request)
    return request


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(*names: str) -> dict[str, Any]:
    tools = [named(name) for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": tools}}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "f"}}, "tool_choice.function"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": 5}}, "tool_choice.function"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {}}},
        "tool_choice.function.name",
    ),
    ({"tools": [TOOL], "tool_choice": {"type": "custom"}}, "tool_choice.custom"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}},
        "tool_choice.allowed_tools",
    ),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"role": "alien", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    (
        {"messages": [USER, {"role": "user", "content": [{"text": "x"}]}]},
        "messages[1].content[0].type",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].type",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
    ),
    (
        {"messages": [{**USER, "tool_calls": [{"function": {"name": "f"}}]}]},
        "messages[0].tool_calls",
    ),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "0.5"}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": float("inf")}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.01}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 1.5}, "min_p"),
    ({"presence_penalty": 2.5}, "presence_penalty"),
    ({"frequency_penalty": -2.5}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"n": True}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", ""]}, "stop[1]"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5"),
    ({"seed": 1 << 63}, "seed"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"tools": [], "tool_choice": "required"}, "tools"),
    ({"tool_choice": "auto"}, "tool_choice"),
    ({"tool_choice": "sometimes", "tools": [TOOL]}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": named("g")}, "tool_choice.function.name"),
    ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
    ({"tools": [named("two words")]}, "tools[0].function.name"),
    ({"tools": [{"type": "custom"}]}, "tools[0].custom"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    (
        {"tools": [TOOL], "tool_choice": allowed("f", "g")},
        "tool_choice.allowed_tools.tools[1].function.name",
    ),
    ({"tools": [TOOL], "tool_choice": allowed()}, "tool_choice.allowed_tools.tools"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"add_generation_prompt": True, "continue_final_message": True}, "continue_final_message"),
    ({"continue_final_message": True}, "messages[0]"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        "response_format.json_schema.schema",
    ),
    ({"response_format": SCHEMA, "guided_regex": "a"}, "guided_regex"),
    ({"guided_choice": ["a"], "guided_regex": "a"}, "guided_choice"),
    ({"guided_choice": []}, "guided_choice"),
    ({"guided_json": "{"}, "guided_json"),
    ({"guided_whitespace_pattern": " "}, "guided_whitespace_pattern"),
    ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs.regex"),
    (
        {"structured_outputs": {"structural_tag": {}, "regex": "a"}},
        "structured_outputs.structural_tag",
    ),
    ({"guided_grammar": "g", "guided_regex": "a"}, "guided_grammar"),
    ({"guided_regex": "a", "guided_whitespace_pattern": " "}, "guided_whitespace_pattern"),
    (
        {"structured_outputs": {"choice": ["a"], "whitespace_pattern": " "}},
        "structured_outputs.whitespace_pattern",
    ),
    ({"structured_outputs": {"yaml": {}}}, "structured_outputs.yaml"),
    ({"regex": "a+", "grammar": "root ::= x"}, "grammar"),
    (
        {"json_schema": {"type": "object"}, "response_format": {"type": "json_object"}},
        "json_schema",
    ),
    ({"format": "json", "ebnf": "root ::= x"}, "format"),
    ({"format": "yaml"}, "format"),
    ({"extra_body": {"top_k": 3, "guided_json": {}}}, "extra_body.guided_json"),
    (
        {"extra_body": {"extra_body": {"options": {"guided_json": {}}}}},
        "extra_body.extra_body.options.guided_json",
    ),
    ({"sampling_params": {"regex": "a"}}, "sampling_params.regex"),
    ({"grammar_lazy": True, "grammar": "root ::= x"}, "grammar_lazy"),
    ({"response_format": {"type": "json"}}, "response_format.value"),
    ({"response_format": {"type": "json", "value": 3}}, "response_format.value"),
    ({"response_format": {"type": "regex", "value": {}}}, "response_format.value"),
    (
        {"response_format": {"type": "regex", "value": "a", "pattern": "b"}},
        "response_format.pattern",
    ),
    ({"response_format": {"type": "grammar"}}, "response_format.grammar"),
    ({"response_format": {"type": "json_object", "grammar": "x"}}, "response_format.grammar"),
    ({"guided_lark": "x"}, "guided_lark"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=[param for _, param in REFUSED])
def test_a_bad_field_is_a_400_that_names_it(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        chat(**fields)
    assert (refused.value.status, refused.value.param) == (400, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [["a"]]}, "prompt[0][0]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": None}, "prompt"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"n": 1, "best_of": 2, "stream": True}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"logprobs": 21}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
    ],
)
def test_a_bad_completion_is_a_400_that_names_the_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        completion(**fields)
    assert (refused.value.status, refused.value.param) == (400, param)


def test_a_missing_field_is_said_to_be_missing() -> None:
    with pytest.raises(ApiError) as refused:
        parse_body(ChatCompletionRequest, b'{"model": "m"}')
    assert refused.value.code == "missing_required_parameter"
    assert refused.value.param == "messages"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"messages": "\xc3"}', b"1"])
def test_a_body_that_is_no_object_is_a_400(body: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        parse_body(ChatCompletionRequest, body)
    assert refused.value.status == 400


def test_a_deep_body_is_a_400() -> None:
    with pytest.raises(ApiError):
        parse_body(ChatCompletionRequest, b'{"messages": ' + b"[" * 100_000)


def test_what_clients_send_is_accepted() -> None:
    chat(
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "bob"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "ok"},
            {"role": "assistant", "content": "so", "reasoning_content": "r", "refusal": None},
            USER,
        ],
        tools=[TOOL],
        tool_choice="auto",
        parallel_tool_calls=False,
        response_format=SCHEMA,
        stream=True,
        stream_options={"include_usage": True, "include_obfuscation": False},
        temperature=1,
        max_completion_tokens=5,
        guided_decoding_backend="outlines",
        metadata={"a": "b"},
        service_tier="auto",
        prediction=None,
        some_future_field={"x": 1},
    )
    chat(tools=[], tool_choice="none")
    assert completion(prompt=[1, 2]).prompts == [[1, 2]]
    assert completion(prompt=[[1], [2]]).prompts == [[1], [2]]
    assert completion(prompt=["a", "b"]).prompts == ["a", "b"]


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"response_format": SCHEMA}, "json", "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_object"}}, "json_object", "response_format"),
        ({"structured_outputs": {"json": '{"type": "object"}'}}, "json", "structured_outputs.json"),
        ({"structured_outputs": {"choice": ["a"]}}, "choice", "structured_outputs.choice"),
        ({"guided_grammar": "g"}, "grammar", "guided_grammar"),
        ({"guided_regex": "a", "response_format": {"type": "text"}}, "regex", "guided_regex"),
        # llama.cpp
        ({"json_schema": OBJECT}, "json", "json_schema"),
        ({"grammar": "root ::= x", "json_schema": None}, "grammar", "grammar"),
        # SGLang
        ({"json_schema": '{"type": "object"}', "grammar": ""}, "json", "json_schema"),
        ({"regex": "a+", "format": ""}, "regex", "regex"),
        ({"ebnf": "root ::= x"}, "grammar", "ebnf"),
        ({"structural_tag": "{}"}, "structural_tag", "structural_tag"),
        # TGI
        ({"response_format": {"type": "json", "value": OBJECT}}, "json", "response_format.value"),
        (
            {"response_format": {"type": "json_object", "value": OBJECT}},
            "json",
            "response_format.value",
        ),
        (
            {"response_format": {"type": "json_schema", "value": {"name": "n", "schema": OBJECT}}},
            "json",
            "response_format.value.schema",
        ),
        ({"response_format": {"type": "regex", "value": "a"}}, "regex", "response_format.value"),
        # Together, Fireworks
        (
            {"response_format": {"type": "regex", "pattern": "a"}},
            "regex",
            "response_format.pattern",
        ),
        (
            {"response_format": {"type": "grammar", "grammar": "root ::= x"}},
            "grammar",
            "response_format.grammar",
        ),
        # Ollama
        ({"format": "json"}, "json_object", "format"),
        ({"format": OBJECT}, "json", "format"),
        # A schema in the place of its wrapper.
        (
            {"response_format": {"type": "json_schema", "json_schema": OBJECT}},
            "json",
            "response_format.json_schema",
        ),
    ],
)
def test_every_name_of_a_constraint_leads_to_one(
    fields: dict[str, Any], kind: str, param: str
) -> None:
    constraint = content_constraint(chat(**fields))
    assert constraint is not None
    assert (constraint.kind, constraint.param) == (kind, param)
    if kind == "json":
        assert constraint.value == {"type": "object"}
