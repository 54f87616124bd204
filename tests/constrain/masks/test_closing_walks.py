"""Hostile walks over answers that must end within their budget: random schemas whose ways to the
end differ much in length, and random tokens of those that the masks allow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from formgate.constrain.compiler import GrammarCompiler
from formgate.constrain.errors import ConstraintError
from formgate.constrain.grammar.shortest import Shortest
from formgate.constrain.masks.closing import _STEPS, ClosingConstraint
from formgate.constrain.masks.constraint import Constraint
from formgate.constrain.masks.end_search import MASKS, Walk
from formgate.constrain.masks.vocabulary import Vocabulary
from formgate.constrain.schema.validate import validate_json

PIECES = (
    *(b'", "', b'": ', b", ", b'"a', b'{"', b'["', b'"}', b'"]', b', "', b"[[", b"[{", b'[{"'),
    *(b"},", b"ab", b"abc", b"the ", b"12", b"00", b'": "', b'": [', b'": {"', b"]}", b"}]"),
)
TOKENS = (*(bytes([i]) for i in range(256)), *PIECES, b"</s>")
EOS = len(TOKENS) - 1
WORDS = (b" ", b"the ", *(bytes([i]) for i in b"abcdefghijklmnopqrstuvwxyz"))

Schema = dict[str, Any]


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    vocabulary = Vocabulary(TOKENS, frozenset({EOS}), (EOS,))
    return GrammarCompiler(vocabulary, padded_vocab_size=len(TOKENS))


def word(r: Random, length: int) -> str:
    return "".join(r.choice("abcdefgh") for _ in range(length))


PATTERNS = (
    *("^[a-z ]{60,}$|^[a-z]{3}$", "^(a|b{20}c)$", "^x(yz{30})?$", "foo", "^ab|cd{25}$"),
    *("^[0-9]{4}-[0-9]{2}(-[A-Z]{25})?$", "^([a-f]{7},)*[a-f]{3}$"),
)
FORMATS = ("date", "date-time", "email", "uuid", "ipv4", "ipv6", "time", "hostname", "uri")
KINDS: tuple[Callable[[Random], Schema], ...] = (
    lambda r: {"type": "string", "pattern": r.choice(PATTERNS)},
    lambda r: {"type": "string", "minLength": r.randint(0, 30), "maxLength": r.choice([30, 90])},
    lambda r: {"type": "string", "format": r.choice(FORMATS)},
    lambda r: {"enum": [word(r, r.choice([1, 3, 40])) for _ in range(4)]},
    lambda r: {"type": "string", "minLength": r.randint(0, 12), "pattern": "^[ab]*$"},
    lambda r: {"type": "integer", "multipleOf": 7, "minimum": 100},
    lambda r: {"type": ["string", "null"]},
)
DIFFERENT: tuple[Schema, ...] = (
    {"enum": list("abcdef")},
    {"type": "integer", "minimum": 0, "maximum": 9},
    {"type": "string", "maxLength": 2},
)


def schema(r: Random, depth: int = 0) -> Schema:
    kind = r.random()
    if depth > 2 or kind < 0.35:
        return r.choice(KINDS)(r)
    if kind < 0.55:
        return array(r, depth)
    if kind < 0.65:
        return {"oneOf": [tagged(r, depth, tag) for tag in ("aa", "bb", "cc")]}
    if kind < 0.7:
        return {"anyOf": [schema(r, depth + 1), schema(r, depth + 1)]}
    names = [word(r, r.randint(1, 6)) for _ in range(r.randint(1, 5))]
    made: Schema = {
        "type": "object",
        "properties": {name: schema(r, depth + 1) for name in names},
        "required": [name for name in names if r.random() < 0.5],
        "additionalProperties": False,
    }
    if r.random() < 0.2:
        made |= {"additionalProperties": r.choice(KINDS)(r), "minProperties": r.randint(0, 5)}
    return made


def array(r: Random, depth: int) -> Schema:
    made: Schema = {"type": "array", "minItems": r.randint(0, 3)}
    kind = r.random()
    if kind < 0.3:
        return {**made, "items": r.choice(DIFFERENT), "uniqueItems": True}
    if kind < 0.5:
        far = {"type": "integer", "minimum": r.choice([50, 10**12])}
        return {**made, "items": {"type": ["integer", "string"]}, "contains": far}
    return {**made, "items": schema(r, depth + 1)}


def tagged(r: Random, depth: int, tag: str) -> Schema:
    more = {word(r, 4): schema(r, depth + 1) for _ in range(r.randint(0, 3))}
    return {
        "type": "object",
        "properties": {"kind": {"const": tag}, **more},
        "required": ["kind"],
        "additionalProperties": False,
    }


def spec_of(made: Schema) -> str:
    return json.dumps({"tree": {"kind": "json", "schema": made}})


def start(compiler: GrammarCompiler, spec: str, short: Shortest, tokens: int) -> ClosingConstraint:
    blueprint = compiler.blueprint(spec)
    budget = compiler.closing(blueprint, short, tokens)
    constraint = compiler.factory(Constraint.of(blueprint, budget).dumps())
    assert isinstance(constraint, ClosingConstraint)
    return constraint


def walk(constraint: ClosingConstraint, tokens: int, r: Random) -> str:
    """At most so many tokens; some walks like to write on and on."""
    row = np.zeros(-(-len(TOKENS) // 32), np.int32)
    written: list[bytes] = []
    wordy = r.random()
    while len(written) < tokens and not constraint.is_terminated():
        constraint.fill_bitmask(row)
        allowed = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist()
        words = [token for token in allowed if TOKENS[token] in WORDS]
        token = r.choice(words if words and r.random() < wordy else allowed)
        if token == EOS:
            break
        constraint.accept(token)
        written.append(TOKENS[token])
    return b"".join(written).decode("utf-8", "replace")


# Of the last five, the shortest text repeats a sibling, and an answer that does not is longer.
@pytest.mark.parametrize("seed", [*range(36), 1755, 2120, 2583, 2679, 2943])
def test_a_hostile_walk_ends_within_its_budget(seed: int, compiler: GrammarCompiler) -> None:
    r = Random(seed)
    made = schema(r)
    spec = spec_of(made)
    compiler.compile(spec)
    short = compiler.shortest(spec)
    way = compiler.closing(compiler.blueprint(spec), short).way
    least = max(compiler.num_tokens(short.text), len(way) - 1)
    for tokens in (least, least + r.randint(0, 20), least + r.randint(0, 200)):
        answer = walk(start(compiler, spec, short, tokens), tokens, r)
        assert validate_json(answer, made) is None, (answer, tokens, made)


@pytest.mark.parametrize("tokens", [16, 40, 90, 200, 290])
def test_a_pattern_whose_short_way_can_be_lost(tokens: int, compiler: GrammarCompiler) -> None:
    """Behind three letters only the way of 300 is left."""
    text = {"type": "string", "pattern": "^[a-z ]{300,}$|^[a-z]{3}$"}
    made = {"type": "object", "properties": {"a": text}, "required": ["a"]}
    made["additionalProperties"] = False
    spec = spec_of(made)
    short = compiler.shortest(spec)
    for seed in range(8):
        answer = walk(start(compiler, spec, short, tokens), tokens, Random(seed))
        assert validate_json(answer, made) is None, answer


@pytest.mark.parametrize("written", [b"", b"iglu:", b"iglu:ab", b"iglu:ab/c", b"iglu:ab/c/12-3"])
def test_a_string_of_which_parts_are_forced_is_closed_from_anywhere(
    written: bytes, compiler: GrammarCompiler
) -> None:
    """Its beginning is forced together with its quote, and no part before the last may be empty."""
    text = {"type": "string", "pattern": "^iglu:[a-z0-9]+/[a-z]+/[0-9]+-[0-9]+$"}
    made = {"type": "object", "properties": {"a": text}, "required": ["a"]}
    made["additionalProperties"] = False
    spec = spec_of(made)
    short = compiler.shortest(spec)
    tokens = compiler.num_tokens(short.text) + len(written) + 12
    constraint = start(compiler, spec, replace(short, text=""), tokens)  # no way is known
    row = np.zeros(-(-len(TOKENS) // 32), np.int32)
    answer = b'{"a": "' + written
    for byte in answer:
        constraint.fill_bitmask(row)
        constraint.accept(byte)
    while not constraint.is_terminated():
        constraint.fill_bitmask(row)
        token, *_ = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist()
        constraint.accept(token)
        answer += TOKENS[token]
    assert validate_json(answer.decode().removesuffix("</s>"), made) is None, answer


@pytest.mark.parametrize(
    "items",
    [{"type": "string", "pattern": "^(?:[^/]+/)*a+$"}, {"type": "integer", "multipleOf": 7919}],
)
def test_an_answer_that_no_way_is_known_for_is_refused(
    items: Schema, compiler: GrammarCompiler
) -> None:
    """It was begun, and cut at its budget."""
    made = {"type": "array", "items": items, "minItems": 5, "uniqueItems": True}
    spec = spec_of(made)
    with pytest.raises(ConstraintError, match="close_within_budget"):
        compiler.closing(compiler.blueprint(spec), compiler.shortest(spec))


def test_long_ways_stay_open_while_they_fit(compiler: GrammarCompiler) -> None:
    made = {"type": "string", "pattern": "^[a-z ]{60,}$|^[a-z]{3}$"}
    spec = spec_of(made)
    short = compiler.shortest(spec)
    answers = [walk(start(compiler, spec, short, 400), 400, Random(seed)) for seed in range(8)]
    assert all(validate_json(answer, made) is None for answer in answers)
    assert max(map(len, answers)) > 60


def test_a_shared_copy_leaves_the_guard_as_it_is(compiler: GrammarCompiler) -> None:
    """A copy that looks for the end once moved what the guard itself still needed."""
    made = {"type": "array", "items": {"enum": list("abc")}, "uniqueItems": True}
    constraint = compiler.compile(spec_of(made)).start()
    row = np.zeros(-(-len(TOKENS) // 32), np.int32)
    for byte in b'["a':
        constraint.accept(byte)
    other = constraint.copy()
    for byte in b'", "b"':
        other.accept(byte)
    for byte in b'", "':
        constraint.accept(byte)
    constraint.fill_bitmask(row)
    allowed = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist()
    assert [TOKENS[token] for token in allowed] == [b"b", b"c"]


def test_a_quote_that_is_escaped_is_no_end(compiler: GrammarCompiler) -> None:
    """The way to the end was a quote, and then a backslash came."""
    made = {"type": "string", "minLength": 2, "maxLength": 100}
    spec = spec_of(made)
    short = compiler.shortest(spec)
    row = np.zeros(-(-len(TOKENS) // 32), np.int32)
    for length in range(40):
        constraint = start(compiler, spec, short, 40)
        written = b""
        while len(written) < 40 and not constraint.is_terminated():
            constraint.fill_bitmask(row)
            allowed = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist()
            wished = 0x5C if len(written) == length else 0x61
            token = wished if wished in allowed else allowed[0]
            constraint.accept(token)
            written += TOKENS[token]
        assert validate_json(written.decode(), made) is None, written


@pytest.mark.parametrize("seed", range(8))
def test_a_step_looks_at_few_states(
    seed: int, compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other sequences wait for it."""
    r = Random(seed)
    made = schema(r)
    spec = spec_of(made)
    short = compiler.shortest(spec)
    tokens = 2 * compiler.num_tokens(short.text) + 60
    constraint = start(compiler, spec, short, tokens)  # the whole way was looked at before
    looks = [0]
    look = Walk.next

    def counted(walk: Walk, known: Sequence[int] = ()) -> tuple[list[int], bool]:
        looks[-1] += 1
        return look(walk, known)

    close = ClosingConstraint._close_if_due

    def close_if_due(closing: ClosingConstraint) -> None:
        looks.append(0)
        close(closing)

    monkeypatch.setattr(Walk, "next", counted)
    monkeypatch.setattr(ClosingConstraint, "_close_if_due", close_if_due)
    walk(constraint, tokens, r)
    assert len(looks) > 2
    assert max(looks) <= _STEPS + 1


@pytest.mark.parametrize("name", ["^(?:[^/]+/)*a+$", "^(?:[a-z]+_)*[0-9]{12}$"])
def test_the_search_for_an_end_is_bounded(
    name: str, compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names must differ, so that the shortest answer as such is none."""
    integer = {"type": "integer"}
    made = {
        "type": "object",
        "patternProperties": {name: integer},
        "additionalProperties": False,
        "minProperties": 3,
    }
    spec = spec_of(made)
    looks = 0
    look = Walk.next

    def counted(walk: Walk, known: Sequence[int] = ()) -> tuple[list[int], bool]:
        nonlocal looks
        looks += 1
        return look(walk, known)

    monkeypatch.setattr(Walk, "next", counted)
    with suppress(ConstraintError):  # none is found within the bound
        compiler.closing(compiler.blueprint(spec), compiler.shortest(spec), 100)
    assert 0 < looks <= MASKS
