"""Text that no grammar has held to anything: what is no call is content, nothing is lost, nothing
raises, and how the stream is cut does not matter.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formgate.parsers.families.registry import FORMATS, REASONING
from formgate.parsers.formats.format import Tool
from formgate.parsers.stream import OutputParser
from formgate.parsers.text.events import Piece

TOOLS = [
    Tool("f", {"type": "object", "properties": {"a": {"type": "string"}}}),
    Tool("g", {"type": "object", "properties": {"n": {"type": "integer"}}}),
]
MARKERS = sorted(
    {marker.text for format in FORMATS.values() for marker in format.markers()}
    | {"<think>", "</think>"}
)
SCRAPS = [
    *MARKERS,
    *["{", "}", "[", "]", "(", ")", '"', ",", ":", ";", "=", "\\", "'", "\n"],
    " ",
    '{"name": "f", "arguments": {"a": "x"}}',
    '{"name": "g", "parameters": {"n": 1}}',
    '{"arguments": {"a": "y"}, "name": "f"}',
    '{"name": "nobody", "arguments": {}}',
    '"name"',
    '"arguments"',
    'f(a="b")',
    "[f(a=1",
    "<function=f>",
    "<parameter=a>",
    "</parameter>",
    "</function>",
    "<parameter",
    "functions.f:0",
    "functools",
    "commentary to=functions.",
    "analysis",
    "final",
    "function",
    "```json\n",
    "```",
    "f",
    "g",
    "text",
    "é北🙂",
    "\\u00",
    "1e5",
    "True",
    "nul",
]


def stream_of(scraps: list[str], special_ids: dict[str, int]) -> list[Piece]:
    return [Piece(scrap, special_ids.get(scrap)) for scrap in scraps]


def parser_of(
    name: str, special_ids: dict[str, int], state: Any, tools: list[Tool]
) -> OutputParser:
    reasoning = REASONING["harmony" if name == "harmony" else "deepseek_r1"]
    return OutputParser(
        FORMATS[name],
        reasoning,
        tools_enabled=True,
        reasoning_state=state if name != "harmony" else "optional",
        special_ids=special_ids,
        tools=tools,
        make_call_id=lambda: "id",
    )


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    scraps=st.lists(st.sampled_from(SCRAPS) | st.text(max_size=3), max_size=24),
    tokens=st.booleans(),
    state=st.sampled_from(["optional", "open", "none", "closed"]),
    known=st.booleans(),
    seed=st.integers(0, 1 << 16),
)
def test_any_text_folds_the_same_however_it_is_cut(
    name: str,
    streams: Any,
    scraps: list[str],
    tokens: bool,
    state: str,
    known: bool,
    seed: int,
) -> None:
    special_ids = {marker: i for i, marker in enumerate(MARKERS)} if tokens else {}
    pieces = stream_of(scraps, special_ids)
    tools = TOOLS if known else []
    answers = [
        streams.fold(parser_of(name, special_ids, state, tools), batches)
        for batches in (
            [pieces],
            [[atom] for atom in streams.characters(pieces)],
            list(streams.cuts(pieces, rng=random.Random(seed), times=1))[-1],
        )
    ]
    assert answers[0] == answers[1] == answers[2]
    if known:
        assert {called for called, _ in answers[0].calls} <= {"f", "g"}


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"harmony", "pythonic"}))
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    scraps=st.lists(st.sampled_from([s for s in SCRAPS if "think" not in s]), max_size=24),
    tokens=st.booleans(),
)
def test_without_a_call_nothing_is_lost(
    name: str, streams: Any, scraps: list[str], tokens: bool
) -> None:
    special_ids = {marker: i for i, marker in enumerate(MARKERS)} if tokens else {}
    parser = parser_of(name, special_ids, "none", [Tool("never_called")])
    answer = streams.fold(parser, [stream_of(scraps, special_ids)])
    assert not answer.calls
    assert answer.content == "".join(scraps)


BROKEN = {
    "mistral": [
        '[TOOL_CALLS] [{"name": "nobody", "arguments": {}}]',
        '[TOOL_CALLS] [{"arguments": {}}]',
        "[TOOL_CALLS] I will not.",
        "[TOOL_CALLS] [",
        "[TOOL_CALLS]",
    ],
    "hermes": [
        "<tool_call>\nnot json\n</tool_call>",
        '<tool_call>\n{"name": 3}\n</tool_call>',
        '<tool_call>\n{"name": "f',
        "a <tool_call> b",
    ],
    "llama3_json": ['{"a": 1}', '{"name": "John", "parameters": 1}', '{"name": "f', "{", "{}"],
    "pythonic": ["[1, 2]", "[f]", "[f is a function](x)", "[nobody(a=1)]", "["],
    "qwen3_coder": ["<tool_call>\n<function=nobody>\n", "<tool_call>\n<parameter=a>"],
    "glm45": ["<tool_call>nobody\n</tool_call>", "<tool_call>\n"],
    "deepseek_v3": ["<｜tool▁calls▁begin｜>f\n", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>x"],
    "kimi_k2": ["<|tool_calls_section_begin|><|tool_call_begin|>functions.f<|tool_call_end|>"],
    "xlam": ['[{"a": 1}]', "[1]", "[]"],
}


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in BROKEN.items() for text in texts]
)
def test_what_is_no_call_is_content(name: str, text: str, streams: Any) -> None:
    special_ids = {marker: i for i, marker in enumerate(MARKERS)}
    for ids in ({}, special_ids):
        parser = parser_of(name, ids, "none", TOOLS)
        answer = streams.fold(
            parser, [[p] for p in streams.characters(streams.pieces_of(text, ids))]
        )
        assert not answer.calls
        assert answer.content == text


def test_a_good_call_is_found_behind_a_broken_one(streams: Any) -> None:
    text = '<tool_call>oops\n<tool_call>\n{"name": "f", "arguments": {"a": "b"}}\n</tool_call>'
    answer = streams.fold(parser_of("hermes", {}, "none", TOOLS), [streams.pieces_of(text, {})])
    assert answer.calls == [("f", '{"a": "b"}')]
    assert answer.content == "<tool_call>oops"


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ('{"arguments": {"a": "b"}, "name": "f"}', '{"a": "b"}'),
        ('{"name":"f","arguments":{"a":"b"}}', '{"a":"b"}'),
        ('{"id": 7, "type": "function", "name": "f", "arguments": {}, "x": [1]}', "{}"),
        ('{"name": "f"}', "{}"),
        ('{"name": "f", "arguments": null}', "{}"),
        ('{"name": "f", "parameters": {"a": 1}}', '{"a": 1}'),
        ('{"name": "f", "arguments": "{\\"a\\": \\"b\\"}"}', '{"a": "b"}'),
        ('{"name": "f", "arguments": {"a": {"b": ["}"]}},}', '{"a": {"b": ["}"]}}'),
        ('{ "name" : "\\u0066" , "arguments" :\n{ } }', "{ }"),
    ],
)
def test_calls_are_read_as_models_write_them(written: str, told: str, streams: Any) -> None:
    text = f"<tool_call>{written}</tool_call>"
    for batches in ([[Piece(text)]], [[Piece(char)] for char in text]):
        answer = streams.fold(parser_of("hermes", {}, "none", TOOLS), batches)
        assert answer.calls == [("f", told)]
        assert answer.content == ""


def test_prose_may_come_before_a_call_that_a_special_token_announces(streams: Any) -> None:
    text = 'I look.<|python_tag|>{"name": "f", "parameters": {"a": "b"}}; {"name": "g"}'
    pieces = streams.pieces_of(text, {"<|python_tag|>": 1})
    for batches in ([pieces], [[atom] for atom in streams.characters(pieces)]):
        parser = parser_of("llama3_json", {"<|python_tag|>": 1}, "none", TOOLS)
        answer = streams.fold(parser, batches)
        assert answer.calls == [("f", '{"a": "b"}'), ("g", "{}")]
        assert answer.content == "I look."


@pytest.mark.parametrize("between", ["", "\n", "  "])
@pytest.mark.parametrize(
    ("name", "opening"), [("llama3_json", ""), ("mistral", "[TOOL_CALLS]["), ("xlam", "[")]
)
def test_calls_are_told_apart_without_a_separator(
    name: str, opening: str, between: str, streams: Any
) -> None:
    call = '{"name": "f", "arguments": {"a": "b"}}'
    text = opening + call + between + call + ("]" if opening else "")
    for batches in ([[Piece(text)]], [[Piece(char)] for char in text]):
        answer = streams.fold(parser_of(name, {}, "none", TOOLS), batches)
        assert answer.calls == [("f", '{"a": "b"}')] * 2
        assert answer.content == ""


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("a='b'", {"a": "b"}),
        ("a='it\\'s \"so\"'", {"a": 'it\'s "so"'}),
        ('a="\\n\\t\\x41\\u00e9\\d"', {"a": "\n\tAé\\d"}),
        ("a=[1, 2.5, -3, 1_000, .5,]", {"a": [1, 2.5, -3, 1000, 0.5]}),
        ("a=(1, 'x')", {"a": [1, "x"]}),
        ("a={'k': None, \"l\": {True: false}}", {"a": {"k": None, "l": {"True": False}}}),
        ("a = True , n = null", {"a": True, "n": None}),
        ("a='北京🙂\n'", {"a": "北京🙂\n"}),
        ("a=[], n={}", {"a": [], "n": {}}),
        ("", {}),
    ],
)
def test_python_literals_become_json(written: str, told: Any, streams: Any) -> None:
    text = f"[f({written})]"
    for batches in ([[Piece(text)]], [[Piece(char)] for char in text]):
        answer = streams.fold(parser_of("pythonic", {}, "none", TOOLS), batches)
        assert answer.parsed_calls == [("f", told)]


@pytest.mark.parametrize("name", ["pythonic", "hermes"])
def test_deep_nesting_and_long_text_are_no_danger(name: str, streams: Any) -> None:
    for text in (
        "[f(a=" + "[" * 5000,
        '<tool_call>{"name": "f", "arguments": ' + '{"a":' * 5000,
        "<tool_call>" * 3000,
        '<tool_call>{"x": "' * 2000,
        "<" * 20000 + "\n" * 5000,
    ):
        streams.fold(parser_of(name, {}, "none", TOOLS), [[Piece(text)]])
        streams.fold(parser_of(name, {}, "none", TOOLS), [[Piece(char)] for char in text[:9000]])


def test_a_lone_surrogate_is_not_taken_for_a_special_token(streams: Any) -> None:
    parser = parser_of("mistral", {"[TOOL_CALLS]": 5}, "none", TOOLS)
    answer = streams.fold(parser, [[Piece("\ud800 x"), Piece("[TOOL_CALLS]", 5), Piece(" \ud800")]])
    assert answer.content == "\ufffd x[TOOL_CALLS] \ufffd"
