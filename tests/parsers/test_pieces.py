"""The small parts by themselves: scanners, patterns, parameters, and what trees refuse."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formgate.parsers.families.generic import describe_calls, describe_result, describe_tools
from formgate.parsers.families.registry import FORMATS
from formgate.parsers.formats.format import Tool, ToolChoice, UnsupportedArguments
from formgate.parsers.formats.keywords import KeywordArguments
from formgate.parsers.formats.parameters import parameters_of
from formgate.parsers.grammar import answer_grammar
from formgate.parsers.text.scanner import JsonScanner, MarkerScanner
from formgate.parsers.tree import nodes
from formgate.parsers.tree.patterns import text_avoiding, text_not_beginning, text_without


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text("<tol_ca>x\n", max_size=30))
def test_text_without_a_marker_is_matched_and_no_other(text: str) -> None:
    marker = "<tool>"
    matched = re.fullmatch(text_without(marker), text) is not None
    # A marker that has begun at the end is left to what comes next.
    begun = any(text.endswith(marker[:n]) for n in range(1, len(marker)))
    assert matched == (marker not in text and not begun)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text('{[" nameft:x', max_size=14) | st.just('{ "name":"f"') | st.just('{"name": "fx"'))
def test_text_not_beginning_is_matched_and_no_other(text: str) -> None:
    words = [["{", '"name"', ":", '"f"'], ["[", "f("]]
    matched = re.fullmatch(text_not_beginning(words), text) is not None
    begins = any(re.match(r"\s*".join(map(re.escape, way)), text) for way in words)
    assert matched == (not begins and not text.startswith((" ", "\n", "\t")))


@pytest.mark.parametrize(
    ("marker", "opening"),
    [
        ("<tool_call>", "<think>"),
        ("<tool_call>", "[THINK]"),
        ("functools", "Thought: "),
        ("abc", "abd"),
        ("abc", "aab"),
        ("abc", "xabab"),
        ("abc", "acabx"),
    ],
)
def test_text_that_avoids_an_opening_too(marker: str, opening: str) -> None:
    """Against strings made of what could confuse the two."""
    rng = random.Random(marker + opening)
    without, through = (re.compile(pattern) for pattern in text_avoiding(marker, opening))
    matched = 0
    for _ in range(4000):
        text = ""
        while rng.random() < 0.8:
            whole = rng.choice((marker, opening, "z", " "))
            text += whole[: rng.randint(1, len(whole))]
        for said in (text, text + marker):
            begins = not said[:1].isspace() and not said.startswith(opening)
            begun = any(said.endswith(marker[:n]) for n in range(1, len(marker)))
            expected = begins and marker not in said and not begun
            assert (without.fullmatch(said) is not None) == expected, said
            first = begins and said.find(marker) == len(said) - len(marker) >= 0
            assert (through.fullmatch(said) is not None) == first, said
            matched += expected + first
    assert matched > 1000


def test_a_scanner_holds_the_beginning_of_a_marker_and_no_more() -> None:
    scanner = MarkerScanner(["<tool_call>", "[X]", "<t>"])
    assert scanner.held_from("abc", 0) == 3
    assert scanner.held_from("abc<", 0) == 3
    assert scanner.held_from("a<b<tool", 0) == 3
    assert scanner.held_from("<<tool_", 0) == 1
    assert scanner.held_from("[X", 1) == 2
    assert scanner.find("a [X] <t>", 0) == (2, "[X]")
    assert scanner.find("a <tool_call", 0) is None
    assert MarkerScanner(()).find("anything", 0) is None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    st.integers(0, 999),
)
def test_the_json_scanner_finds_the_end_however_it_is_fed(value: Any, seed: int) -> None:

    rng = random.Random(seed)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))
    tail = ",}]"
    scanner = JsonScanner()
    pos = 0
    end = 0
    while not scanner.done:
        end = min(len(text + tail), end + rng.randint(1, 4))
        pos = scanner.scan((text + tail)[:end], pos)
        assert not scanner.failed
    assert pos == len(text)


@pytest.mark.parametrize("text", ["}", '{"a": ]', "[}", ",", "{\ud800", '"a\ud800', '"\\\ud800'])
def test_the_json_scanner_stops_at_what_cannot_be(text: str) -> None:
    scanner = JsonScanner()
    end = scanner.scan(text, 0)
    assert scanner.failed
    assert end == len(text) - 1


def tool(parameters: Any) -> Tool:
    return Tool("f", parameters, "/tools/3/function/parameters")


def test_parameters_stand_by_themselves() -> None:
    schema = {
        "$ref": "#/$defs/args",
        "$defs": {
            "args": {
                "type": "object",
                "properties": {
                    "a/b": {"type": "string", "description": "long", "default": "x"},
                    "c": {"$ref": "#/$defs/x"},
                },
                "required": ["c", "d"],
                "additionalProperties": {"type": "integer"},
            },
            "x": {"enum": [1]},
        },
    }
    made = parameters_of(tool(schema), ".*")
    assert [(p.name, p.required) for p in made] == [("a/b", False), ("c", True), ("d", True)]
    assert made[0].schema == {"type": "string"}
    assert made[1].schema == {"$ref": "#/$defs/x", "$defs": schema["$defs"]}
    assert made[2].schema == {"type": "integer"}
    assert made[0].pointer == "/tools/3/function/parameters/$defs/args/properties/a~1b"


@pytest.mark.parametrize("name", ["pythonic", "qwen3_coder", "glm45"])
@pytest.mark.parametrize(
    ("parameters", "keyword", "pointer"),
    [
        ({"type": "object", "minProperties": 1}, "minProperties", "/minProperties"),
        ({"type": "object", "anyOf": [{}]}, "anyOf", "/anyOf"),
        ({"properties": {"a b": {}}}, "properties", "/properties/a b"),
        ({"properties": {"a": {"$ref": "#/properties/b"}, "b": {}}}, "$ref", "/properties/a"),
    ],
)
def test_what_lies_between_parameters_is_refused(
    name: str, parameters: Any, keyword: str, pointer: str
) -> None:
    with pytest.raises(UnsupportedArguments) as caught:
        tree(name, [tool(parameters)])
    assert caught.value.keyword == keyword
    assert caught.value.pointer == "/tools/3/function/parameters" + pointer
    assert "'f'" in str(caught.value)


def tree(name: str, tools: list[Tool], choice: ToolChoice | None = None, **options: Any) -> Any:
    return answer_grammar(
        FORMATS[name],
        None,
        **{
            "tools": tools,
            "tool_choice": choice or ToolChoice("auto"),
            "parallel": True,
            "content": None,
            "reasoning_state": "none",
            "special_ids": {},
            **options,
        },
    )


def test_a_call_that_is_demanded_needs_a_tool() -> None:
    for choice in (ToolChoice("required"), ToolChoice.named("g")):
        with pytest.raises(ValueError, match="no tool"):
            tree("mistral", [tool(None)] if choice.mode == "named" else [], choice)


def test_nothing_is_constrained_without_need() -> None:
    assert tree("mistral", []) is None
    assert tree("mistral", [tool(None)], ToolChoice("none")) is None
    content = nodes.json_value({"type": "object"})
    assert tree("mistral", [tool(None)], ToolChoice("none"), content=content) == content
    assert (
        answer_grammar(
            None,
            None,
            tools=[],
            tool_choice=ToolChoice("auto"),
            parallel=True,
            content=content,
            reasoning_state="none",
            special_ids={},
        )
        == content
    )


def test_the_mistral_tree_is_what_the_embedded_model_writes() -> None:
    made = tree("mistral", [tool({"type": "object"})], special_ids={"[TOOL_CALLS]": 9})
    call = nodes.seq(
        [
            nodes.text('{"name": "f", "arguments": '),
            nodes.json_value({"type": "object"}, pointer="/tools/3/function/parameters"),
            nodes.text("}"),
        ]
    )
    calls = nodes.seq(
        [
            nodes.token(9, "[TOOL_CALLS]"),
            nodes.optional(nodes.text(" ")),
            nodes.text("["),
            nodes.repeat(call, 1, None, nodes.text(", ")),
            nodes.text("]"),
        ]
    )
    assert made == nodes.seq([nodes.free(), nodes.optional(calls)])


@pytest.mark.parametrize("name", FORMATS)
def test_one_call_is_one_call(name: str, streams: Any) -> None:
    rng = random.Random(name)
    made = tree(name, [tool({"type": "object", "properties": {}})], parallel=False)
    for _ in range(20):
        text = "".join(piece.text for piece in streams.walk(made, rng))
        assert len(re.findall(r'"name": "f"|[^\w]f\(|=f>|_call>f\n|[.\]▁｜]f\W', text)) <= 1, text


def test_the_generic_format_is_explained_to_the_model() -> None:
    function = {"name": "f", "description": "größe", "parameters": {"type": "object"}}
    text = describe_tools([function])
    assert '{"name": "f", "description": "größe", "parameters": {"type": "object"}}' in text
    assert '<tool_call>\n{"name": "function name", "arguments": {"parameter": "value"}}' in text
    calls = describe_calls([("f", '{"a": 1}'), ("f", "{}")])
    assert calls == (
        '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    )
    assert describe_result("x") == "<tool_response>\nx\n</tool_response>"


def language(node: Any) -> set[str]:
    """All texts of a tree that has finitely many."""
    match node["kind"]:
        case "text":
            return {node["value"]}
        case "seq":
            return set(map("".join, itertools.product(*map(language, node["items"]))))
        case "choice":
            return set().union(*map(language, node["items"]))
        case "repeat":
            assert (node["min"], node["max"]) == (0, 1)
            return {"", *language(node["item"])}
    raise AssertionError(node["kind"])


def keyword_arguments(required: Sequence[bool]) -> Any:
    schema = {
        "type": "object",
        "properties": {f"p{i}": {"const": i} for i in range(len(required))},
        "required": [f"p{i}" for i, needed in enumerate(required) if needed],
    }
    return KeywordArguments().tree(Tool("f", schema, "#"), {})


@pytest.mark.parametrize("count", range(6))
def test_keyword_arguments_are_every_choice_in_order(count: int) -> None:
    for required in itertools.product((False, True), repeat=count):
        choices = itertools.product(*[(True,) if needed else (True, False) for needed in required])
        assert language(keyword_arguments(required)) == {
            ", ".join(f"p{i}={i}" for i, there in enumerate(chosen) if there) for chosen in choices
        }


@pytest.mark.parametrize("sure", [None, 0, 50, 99])
def test_keyword_arguments_do_not_grow_with_the_square_of_their_number(sure: int | None) -> None:
    tree = keyword_arguments([i == sure for i in range(100)])
    assert json.dumps(tree).count("p7=") <= 8
