"""What the answer tree lets through, the parser parses back to the same calls: random walks of
every format's tree, over every tool choice. FORMGATE_WALKS sets how many.
"""

from __future__ import annotations

import ast
import json
import os
import random
import re
from typing import Any

import jsonschema
import numpy as np
import pytest

from formgate.constrain.compiler import GrammarCompiler
from formgate.parsers.families.registry import FORMATS, REASONING
from formgate.parsers.formats.format import Tool, ToolChoice
from formgate.parsers.grammar import answer_grammar
from formgate.parsers.stream import OutputParser
from formgate.parsers.text.events import Piece
from formgate.parsers.tree.nodes import json_value

WALKS = int(os.environ.get("FORMGATE_WALKS", "100"))
TEXT = {"type": "string"}
PARAMETERS: list[Any] = [
    {
        "type": "object",
        "properties": {"city": TEXT, "unit": {"enum": ["celsius", "fahrenheit"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    None,
    {
        "type": "object",
        "properties": {
            "text": {**TEXT, "description": "any"},
            "count": {"type": "integer", "minimum": 0},
            "ratio": {"type": "number"},
            "on": {"type": "boolean"},
            "note": {"anyOf": [TEXT, {"type": "null"}]},
            "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
            "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
            "mode": {"const": "fast"},
            "level": {"enum": [1, 2, None, "high", True]},
            "nothing": {"type": "null"},
            "either": {"type": ["integer", "boolean"]},
        },
        "required": ["text", "count", "items"],
        "additionalProperties": False,
        "$defs": {
            "item": {
                "type": "object",
                "properties": {"id": {"type": "integer"}, "ok": {"type": "boolean"}},
                "required": ["id"],
                "additionalProperties": False,
            }
        },
    },
    {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": TEXT},
        "additionalProperties": False,
    },
]
NAMES = ["get_weather", "get", "edit.file", "a-b"]
TOOLS = [Tool(NAMES[i], schema, f"/tools/{i}") for i, schema in enumerate(PARAMETERS)]
BY_NAME = {tool.name: tool for tool in TOOLS}
BY_POINTER = {tool.pointer: tool for tool in TOOLS}
CONTENT = {
    "type": "object",
    "properties": {"answer": TEXT, "sure": {"type": "boolean"}},
    "required": ["answer"],
    "additionalProperties": False,
}
CHOICES = [
    ToolChoice("auto"),
    ToolChoice("required"),
    ToolChoice.named("edit.file"),
    ToolChoice("auto", frozenset(("get", "a-b"))),
    ToolChoice("none"),
]
INDIVIDUAL = {"pythonic", "lfm2", "gemma4", "qwen3_coder", "glm45"}  # arguments written one by one


def special_ids_of(name: str, thinks: str | None) -> dict[str, int]:
    markers = FORMATS[name].markers() | (REASONING[thinks].markers() if thinks else frozenset())
    return {marker.text: 300 + i for i, marker in enumerate(sorted(markers))}


def read_by_other_means(name: str, text: str) -> list[tuple[str, Any]]:
    """The calls of formats whose trees do not hold the arguments as one JSON value."""
    if name == "gemma4":
        return _read_gemma(text)
    if name in ("pythonic", "lfm2"):
        start = "<|python_start|>" if name == "pythonic" else "<|tool_call_start|>"
        calls = text.rpartition(start)[2].removesuffix("<|tool_call_end|>")
        calls = calls[calls.index("[") :]
        parsed = ast.parse(re.sub(r"\b(edit\.file|a-b)\(", _safe_name, calls), mode="eval").body
        assert isinstance(parsed, ast.List)
        return [
            (_unsafe_name(call.func.id), {word.arg: _evaluated(word) for word in call.keywords})
            for call in parsed.elts
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        ]
    made = []
    if name == "qwen3_coder":
        for called, body in re.findall(
            r"<function=(.*?)>\n(.*?)</function>\n</tool_call>", text, re.S
        ):
            found = re.findall(r"<parameter=(.*?)>\n(.*?)</parameter>\n", body, re.S)
            made.append((called, {k: _typed(called, k, v.removesuffix("\n")) for k, v in found}))
        return made
    for called, body in re.findall(
        r"<tool_call>(.*?)\n(.*?)</tool_call>(?=\n<tool_call>|$)", text, re.S
    ):
        found = re.findall(r"<arg_key>(.*?)</arg_key>\n<arg_value>(.*?)</arg_value>\n", body, re.S)
        made.append((called, {k: _typed(called, k, v) for k, v in found}))
    return made


def _read_gemma(text: str) -> list[tuple[str, Any]]:
    """Its texts and keys are put between quotes, then it is JSON."""
    quote = '<|"|>'
    parts = re.compile(
        rf'{re.escape(quote)}(.*?){re.escape(quote)}|("(?:[^"\\]|\\.)*"\s*:?)|([A-Za-z_]\w*)(?=:)|(.)',
        re.DOTALL,
    )
    made = []
    at = text.find("<|tool_call>")
    while at >= 0:
        at += len("<|tool_call>call:")
        end = text.index("{", at)
        name, at, written = text[at:end], end, ""
        while not text.startswith("<tool_call|>", at):
            found = parts.match(text, at)
            assert found is not None
            said, quoted, key, other = found.groups()
            written += json.dumps(said) if said is not None else quoted or ""
            written += f'"{key}"' if key else other or ""
            at = found.end()
        made.append((name, json.loads(written)))
        at = text.find("<|tool_call>", at)
    return made


def _evaluated(word: ast.keyword) -> Any:
    names = {"true": True, "false": False, "null": None}
    return _joined(eval(compile(ast.Expression(word.value), "", "eval"), names))


def _joined(value: Any) -> Any:
    """JSON's pairs of surrogate escapes are one character, Python's are not."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16")
    if isinstance(value, list):
        return [_joined(item) for item in value]
    return value


def _safe_name(found: re.Match[str]) -> str:
    return found[0].replace(".", "_DOT_").replace("-", "_DASH_")


def _unsafe_name(name: str) -> str:
    return name.replace("_DOT_", ".").replace("_DASH_", "-")


def _typed(called: str, key: str, value: str) -> Any:
    schema = BY_NAME[called].schema
    assert isinstance(schema, dict)
    parameter = schema["properties"][key]
    if parameter.get("type") == "string" and "pattern" not in parameter:
        return value
    if key in ("unit", "mode"):
        return value
    if key == "note":
        return None if value == "null" else value
    return json.loads(value)


def plans(name: str, rng: random.Random) -> Any:
    """Requests, as different as they come."""
    thinks = rng.choice([None, "harmony" if name == "harmony" else "deepseek_r1"])
    state = rng.choice(["optional", "none"] if name == "harmony" else ["optional", "open", "none"])
    content = rng.choice([None, None, json_value(CONTENT)])
    return {
        "thinks": thinks,
        "state": state if thinks else "none",
        "choice": rng.choice(CHOICES),
        "parallel": rng.random() < 0.7,
        "content": content,
        "tokens": rng.random() < 0.7 or name == "harmony",
    }


@pytest.mark.parametrize("name", FORMATS)
def test_what_the_tree_lets_through_is_parsed_back(name: str, streams: Any) -> None:
    rng = random.Random(name)
    walked = calls_seen = 0
    while walked < WALKS:
        plan = plans(name, rng)
        special_ids = special_ids_of(name, plan["thinks"]) if plan["tokens"] else {}
        reasoning = REASONING[plan["thinks"]] if plan["thinks"] else None
        choice = plan["choice"]
        tree = answer_grammar(
            FORMATS[name],
            reasoning,
            tools=TOOLS,
            tool_choice=choice,
            parallel=plan["parallel"],
            content=plan["content"],
            reasoning_state=plan["state"],
            special_ids=special_ids,
        )
        if tree is None:
            assert choice.mode == "none"
            assert plan["content"] is None
            continue
        assert tree == json.loads(json.dumps(tree))
        for _ in range(10):
            walked += 1
            said: list[tuple[str, Any]] = []
            pieces = streams.walk(tree, rng, said)
            parser = OutputParser(
                FORMATS[name],
                reasoning,
                tools_enabled=choice.mode != "none",
                reasoning_state=plan["state"],
                special_ids=special_ids,
                tools=choice.allowed(TOOLS),
                structured_content=plan["content"] is not None,
            )
            atoms = streams.characters(pieces)
            answer = streams.fold(parser, [[atom] for atom in atoms])
            text = "".join(piece.text for piece in pieces)
            calls = answer.parsed_calls
            calls_seen += len(calls)
            if name not in INDIVIDUAL:
                meant = [(BY_POINTER[pointer].name, value) for pointer, value in said if pointer]
                assert calls == meant, (text, plan)
            elif calls:
                behind = text.rpartition("</think>")[2] if answer.reasoning else text
                assert calls == read_by_other_means(name, behind), text
            for called, arguments in calls:
                jsonschema.validate(arguments, BY_NAME[called].schema)
            check_rules(plan, answer, [value for pointer, value in said if not pointer], text)
    assert calls_seen > WALKS // 4


def check_rules(plan: Any, answer: Any, contents: list[Any], text: str) -> None:
    choice = plan["choice"]
    names = [name for name, _ in answer.calls]
    if choice.mode == "required":
        assert names, text
    if choice.mode == "named":
        assert names == ["edit.file"], text
    if choice.names is not None:
        assert set(names) <= choice.names, text
    if not plan["parallel"]:
        assert len(names) <= 1, text
    if choice.mode in ("required", "named"):
        assert answer.content == "", text
    if plan["content"] is not None and not names:
        assert json.loads(answer.content) == contents[-1], text
    elif names:
        assert answer.content == answer.content.rstrip(), text


@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("name", FORMATS)
def test_masks_let_through_what_the_tree_does_and_end_where_it_ends(
    name: str, tokens: bool, streams: Any
) -> None:
    rng = random.Random(f"{name}{tokens}")
    thinks = "harmony" if name == "harmony" else "deepseek_r1"
    special_ids = special_ids_of(name, thinks) if tokens else {}
    vocabulary = streams.byte_vocabulary(special_ids)
    size = len(vocabulary.token_bytes)
    compiler = GrammarCompiler(vocabulary, padded_vocab_size=size)
    for choice in (ToolChoice("auto"), ToolChoice("required")):
        for content in (None, json_value(CONTENT)):
            tree = answer_grammar(
                FORMATS[name],
                REASONING[thinks],
                tools=TOOLS,
                tool_choice=choice,
                parallel=True,
                content=content,
                reasoning_state="optional",
                special_ids=special_ids,
            )
            compiled = compiler.compile(json.dumps({"tree": tree}))
            for _ in range(6):
                pieces = streams.walk(tree, rng, None, False)
                constraint = compiled.start()
                row = np.zeros((size + 31) // 32, np.int32)
                for token in streams.ids_of(pieces):
                    constraint.fill_bitmask(row)
                    assert row[token >> 5] >> (token & 31) & 1, (pieces, token)
                    constraint.accept(token)
                constraint.fill_bitmask(row)
                assert row[256 >> 5] >> (256 & 31) & 1, ("may not end", pieces)


@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("name", FORMATS)
def test_the_worst_model_there_is_makes_no_invalid_call(
    name: str, tokens: bool, streams: Any
) -> None:
    """It draws its next byte from the mask, and at random."""
    rng = random.Random(f"{name}{tokens}")
    thinks = "harmony" if name == "harmony" else "deepseek_r1"
    special_ids = special_ids_of(name, thinks) if tokens else {}
    vocabulary = streams.byte_vocabulary(special_ids)
    size = len(vocabulary.token_bytes)
    compiler = GrammarCompiler(vocabulary, padded_vocab_size=size)
    texts = {token: text for text, token in special_ids.items()}
    calls_made = finished = 0
    closings = [
        close.encode()
        for close in (
            "</think>",
            "</parameter>",
            "</arg_value>",
            '<|"|>',
            "<tool_call|>",
            *texts.values(),
        )
    ]
    for mode in ("required", "auto", "named"):
        choice = ToolChoice.named("edit.file") if mode == "named" else ToolChoice(mode)  # type: ignore[arg-type]
        content = json_value(CONTENT) if rng.random() < 0.5 else None
        plan = {"choice": choice, "parallel": True, "content": content}
        tree = answer_grammar(
            FORMATS[name],
            REASONING[thinks],
            tools=TOOLS,
            tool_choice=choice,
            parallel=True,
            content=content,
            reasoning_state="optional",
            special_ids=special_ids,
        )
        compiled = compiler.compile(json.dumps({"tree": tree}))
        for _ in range(4):
            drawn = draw(compiled.start(), size, rng, closings)
            if drawn is None:  # still not over
                continue
            finished += 1
            pieces = as_pieces(drawn, texts)
            parser = OutputParser(
                FORMATS[name],
                REASONING[thinks],
                tools_enabled=True,
                reasoning_state="optional",
                special_ids=special_ids,
                tools=choice.allowed(TOOLS),
                structured_content=content is not None,
            )
            answer = streams.fold(parser, [[atom] for atom in streams.characters(pieces)])
            for called, arguments in answer.parsed_calls:
                calls_made += 1
                jsonschema.validate(arguments, BY_NAME[called].schema)
            text = "".join(piece.text for piece in pieces)
            if mode != "auto":
                check_rules({**plan, "content": None}, answer, [], text)
            elif content is not None and not answer.calls:
                jsonschema.validate(json.loads(answer.content), CONTENT)
    assert finished >= 6
    assert calls_made >= 4


ENDINGS = [256, *b'"}])>/']  # a model that never closes anything would never end


def draw(constraint: Any, size: int, rng: random.Random, closings: list[bytes]) -> list[int] | None:
    drawn: list[int] = []
    meant: list[int] = []  # what it would like to write next
    row = np.zeros((size + 31) // 32, np.int32)
    for _ in range(900):
        constraint.fill_bitmask(row)
        allowed = np.flatnonzero(
            np.unpackbits(row.view(np.uint8), bitorder="little")[:size]
        ).tolist()
        assert allowed, bytes(token for token in drawn if token < 256)
        likely = [token for token in allowed if token in ENDINGS or token > 256]
        if not meant and rng.random() < 0.1:
            meant = list(rng.choice(closings))
        if meant and meant[0] in allowed:
            token = meant.pop(0)
        else:
            meant = []
            token = rng.choice(likely if likely and rng.random() < 0.6 else allowed)
        if token == 256:
            return drawn
        constraint.accept(token)
        drawn.append(token)
    return None


def as_pieces(drawn: list[int], texts: dict[int, str]) -> list[Piece]:
    pieces: list[Piece] = []
    run = b""
    for token in [*drawn, -1]:
        if 0 <= token < 256:
            run += bytes([token])
            continue
        if run:
            pieces.append(Piece(run.decode("utf-8", "replace")))
            run = b""
        if token >= 0:
            pieces.append(Piece(texts[token], token))
    return pieces
