"""Answers as token streams: cutting them up, folding them again, and making them up by walking an
answer tree."""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as sre_parser  # type: ignore[attr-defined]
from typing import Any

import pytest

from formgate.constrain.masks.vocabulary import Vocabulary
from formgate.parsers.stream import OutputParser
from formgate.parsers.text.events import (
    ContentDelta,
    OutputDelta,
    Piece,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallStart,
)


@dataclass
class Answer:
    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    def add(self, delta: OutputDelta) -> None:
        match delta:
            case ContentDelta(text):
                assert text
                self.content += text
            case ReasoningDelta(text):
                assert text
                self.reasoning += text
            case ToolCallStart(index, name, call_id):
                assert index == len(self.calls)
                self.calls.append((name, ""))
                self.ids.append(call_id)
            case ToolCallArguments(index, text):
                assert text
                assert index == len(self.calls) - 1
                self.calls[index] = (self.calls[index][0], self.calls[index][1] + text)

    @property
    def parsed_calls(self) -> list[tuple[str, Any]]:
        return [(name, json.loads(arguments)) for name, arguments in self.calls]


def fold(parser: OutputParser, batches: Sequence[Sequence[Piece]], *, cut: bool = False) -> Answer:
    answer = Answer()
    for batch in batches:
        for delta in parser.feed(batch):
            answer.add(delta)
    for delta in parser.finish(cut=cut):
        answer.add(delta)
    return answer


def pieces_of(text: str, special_ids: dict[str, int]) -> list[Piece]:
    """As the detokenizer gives them: a special token is a piece of its own."""
    if not special_ids:
        return [Piece(text)] if text else []
    ordered = sorted(special_ids, key=len, reverse=True)
    parts = re.split("(" + "|".join(map(re.escape, ordered)) + ")", text)
    return [Piece(part, special_ids.get(part)) for part in parts if part]


def characters(pieces: Sequence[Piece]) -> list[Piece]:
    return [
        atom
        for piece in pieces
        for atom in ([piece] if piece.special_id is not None else map(Piece, piece.text))
    ]


def cuts(
    pieces: Sequence[Piece], *, rng: random.Random, times: int = 20
) -> Iterator[list[list[Piece]]]:
    """The same stream in one piece, one character at a time, cut once at every place (of a short
    one), and at random."""
    atoms = characters(pieces)
    yield [list(pieces)]
    yield [[atom] for atom in atoms]
    places = range(1, len(atoms)) if len(atoms) <= 100 else rng.sample(range(1, len(atoms)), 25)
    for place in places:
        yield [atoms[:place], atoms[place:]]
    for _ in range(times):
        batches: list[list[Piece]] = [[]]
        for atom in atoms:
            if rng.random() < 0.3:
                batches.append([])
            batches[-1].append(atom)
        yield batches


_WORDS = [
    "Paris",
    "北京",
    'a "quoted" word',
    "back\\slash",
    "}{][",
    "</tool_call>",
    "",
    "\n",
    "é🙂",
    "'",
    "null",
]


def instance(schema: Any, rng: random.Random, root: Any = None) -> Any:
    """Some value that satisfies a small schema."""
    root = schema if root is None else root
    if schema is True or schema == {}:
        return rng.choice([None, True, 3, "x", [1], {"k": {}}])
    if "$ref" in schema:
        target = root
        for key in schema["$ref"].split("/")[1:]:
            target = target[key]
        return instance(target, rng, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if "anyOf" in schema:
        return instance(rng.choice(schema["anyOf"]), rng, root)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = rng.choice(kind)
    match kind:
        case "object":
            properties = schema.get("properties", {})
            required = schema.get("required", [])
            value = {
                name: instance(sub, rng, root)
                for name, sub in properties.items()
                if name in required or rng.random() < 0.5
            }
            if not properties and rng.random() < 0.5 and schema.get("additionalProperties", True):
                value = {rng.choice(_WORDS): rng.choice(_WORDS)}
            return value
        case "array":
            least = schema.get("minItems", 0)
            return [
                instance(schema.get("items", True), rng, root)
                for _ in range(least + rng.randrange(3))
            ]
        case "integer":
            return rng.randrange(schema.get("minimum", -99), 1000)
        case "number":
            return rng.choice([1.5, -2, 1e30, 0])
        case "boolean":
            return rng.random() < 0.5
        case "null":
            return None
    if "pattern" in schema:
        return sample_regex(schema["pattern"].strip("^$"), rng)
    return rng.choice(_WORDS) + "x" * schema.get("minLength", 0)


def sample_regex(pattern: str, rng: random.Random) -> str:
    parsed = sre_parser.parse(pattern)
    made = _sample(parsed, rng)
    while "(?!" in pattern and re.fullmatch(pattern, made) is None:
        made = _sample(parsed, rng)
    return made


_ALPHABET = string.ascii_letters + string.digits + " \n'\"<>[](){}=,.:;/_-\\北"


def _sample(parsed: Any, rng: random.Random) -> str:
    made = ""
    for op, arg in parsed:
        if op is sre.LITERAL:
            made += chr(arg)
        elif op is sre.NOT_LITERAL:
            made += rng.choice([c for c in _ALPHABET if ord(c) != arg])
        elif op is sre.ANY:
            made += rng.choice(_ALPHABET)
        elif op is sre.IN:
            made += rng.choice(_members(arg))
        elif op in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            low, high, item = arg
            count = low + rng.randrange(min(int(high) - low, 6) + 1)
            made += "".join(_sample(item, rng) for _ in range(count))
        elif op is sre.SUBPATTERN:
            made += _sample(arg[3], rng)
        elif op is sre.BRANCH:
            made += _sample(rng.choice(arg[1]), rng)
        elif op is sre.ASSERT_NOT:  # a part of what it refuses, often as long as may be
            refused = _sample(arg[1], rng)
            made += refused[: rng.choice([0, len(refused) - 1, rng.randrange(len(refused))])]
        elif op is not sre.AT:
            raise AssertionError(op)
    return made


def _members(arg: Any) -> list[str]:
    negated = arg[0][0] is sre.NEGATE
    members: list[str] = []
    for op, value in arg[negated:]:
        if op is sre.LITERAL:
            members.append(chr(value))
        elif op is sre.RANGE:
            members += map(chr, range(value[0], value[1] + 1))
        else:
            raise AssertionError(op)
    return [c for c in _ALPHABET if c not in members] if negated else members


_PROSE = [
    "",
    "",
    "Hello.",
    "I will look.\n\n",
    " <b>",
    "[",
    "{",
    "Sure! ",
    "你好",
    '{"name"',
    "<tool",
    "a\n",
]


def walk(
    node: Any, rng: random.Random, said: list[tuple[str, Any]] | None = None, compact: bool = True
) -> list[Piece]:
    """One answer that the tree lets through. `said` collects the JSON values by their pointers;
    without `compact`, JSON is spaced as our masks want it."""
    match node["kind"]:
        case "text":
            return [Piece(node["value"])] if node["value"] else []
        case "token":
            return [Piece(node["text"], node["id"])]
        case "json":
            separators = rng.choice([(", ", ": "), (",", ":")]) if compact else (", ", ": ")
            value = instance(node["schema"], rng)
            if said is not None:
                said.append((node.get("pointer", ""), value))
            ascii_only = compact and rng.random() < 0.5
            return [Piece(json.dumps(value, ensure_ascii=ascii_only, separators=separators))]
        case "json_object":
            return [Piece(json.dumps({"k": [1, {"}": "]"}]}))]
        case "regex":
            made = sample_regex(node["pattern"], rng)
            assert re.fullmatch(node["pattern"], made), (node["pattern"], made)
            return [Piece(made)] if made else []
        case "free":
            prose = rng.choice(_PROSE)
            return [Piece(prose)] if prose else []
        case "free_text_until":
            prose = rng.choice(_PROSE)
            while (prose + node["text"]).index(node["text"]) != len(prose):
                prose = rng.choice(_PROSE)
            return [Piece(prose + node["text"])]
        case "seq":
            return [piece for item in node["items"] for piece in walk(item, rng, said, compact)]
        case "choice":
            return walk(rng.choice(node["items"]), rng, said, compact)
        case "repeat":
            most = node["max"] if node["max"] is not None else node["min"] + 2
            pieces: list[Piece] = []
            for i in range(rng.randint(node["min"], most)):
                if i and "separator" in node:
                    pieces += walk(node["separator"], rng, said, compact)
                pieces += walk(node["item"], rng, said, compact)
            return pieces
    raise AssertionError(node["kind"])


def byte_vocabulary(special_ids: dict[str, int]) -> Vocabulary:
    """A token for each byte, 256 for the end, and the special ones."""
    size = max([*special_ids.values(), 299]) + 1
    tokens = [bytes([i]) if i < 256 else b"" for i in range(size)]
    tokens[256] = b"</s>"
    for text, i in special_ids.items():
        tokens[i] = text.encode()
    return Vocabulary(tuple(tokens), frozenset([256, *special_ids.values()]), (256,))


def ids_of(pieces: Sequence[Piece]) -> list[int]:
    """In that vocabulary."""
    return [
        token
        for piece in pieces
        for token in ([piece.special_id] if piece.special_id is not None else piece.text.encode())
    ]


class Streams:
    """What the tests of this folder share."""

    Answer = Answer
    fold = staticmethod(fold)
    pieces_of = staticmethod(pieces_of)
    cuts = staticmethod(cuts)
    characters = staticmethod(characters)
    walk = staticmethod(walk)
    sample_regex = staticmethod(sample_regex)
    byte_vocabulary = staticmethod(byte_vocabulary)
    ids_of = staticmethod(ids_of)


@pytest.fixture(scope="session")
def streams() -> type[Streams]:
    return Streams


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(request.node.name)


Fold = Callable[[OutputParser, Sequence[Sequence[Piece]]], Answer]
