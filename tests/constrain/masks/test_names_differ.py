"""No object gets a name twice, however it is spelled, and none of the schema comes in disguise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from formgate.constrain.errors import ConstraintError
from formgate.constrain.masks.constraint import Constraint
from formgate.constrain.masks.vocabulary import Vocabulary

SMALL = {"enum": [0, "a"]}
PIECES = (
    *(b'"a', b'a"', b'"a"', b'"a":', b'"a": ', b'{"a": 0, "', b', "a', b', "a": ', b'0, "b": 0'),
    *(
        b'", "',
        b'": "',
        b'": ',
        b"\\u",
        b"\\u00",
        b'"\\u0061',
        b"61",
        b'"": ',
        b'""',
        b"ab",
        b'ab"',
    ),
    *(b'{"', b'0, "', b'0}, "a', b'"}, "', b"u0", b"0061", b"\\"),
)
OPEN: dict[str, Any] = {
    "any object": {"type": "object"},
    "any value": True,
    "a schema for others": {"type": "object", "additionalProperties": SMALL},
    "named and others": {
        "type": "object",
        "properties": {"a": SMALL, "ab": SMALL},
        "additionalProperties": SMALL,
    },
    "patterns": {"type": "object", "patternProperties": {"^a": SMALL}},
    "few names by a pattern": {
        "type": "object",
        "patternProperties": {"^[ab]$": SMALL},
        "additionalProperties": False,
    },
    "names by a pattern that ends and may not": {
        "type": "object",
        "patternProperties": {"^a(?:b|0+)?$": SMALL},
        "additionalProperties": False,
    },
    "names by classes": {
        "type": "object",
        "patternProperties": {"^(?:[ab]/)*a+$": SMALL},
        "additionalProperties": False,
        "minProperties": 2,
    },
    "names of several patterns": {
        "type": "object",
        "patternProperties": {"^a": SMALL, "b$": {"const": 0}},
        "additionalProperties": SMALL,
    },
    "names by a pattern": {
        "type": "object",
        "additionalProperties": SMALL,
        "propertyNames": {"pattern": "^a{1,2}b?$"},
    },
    "listed names": {
        "type": "object",
        "additionalProperties": SMALL,
        "propertyNames": {"enum": ["a", "ab", "abc"]},
        "minProperties": 2,
    },
    "unevaluated": {
        "type": "object",
        "allOf": [{"properties": {"a": SMALL}}],
        "unevaluatedProperties": SMALL,
    },
    "counted": {"type": "object", "additionalProperties": SMALL, "minProperties": 3},
    "required and short": {
        "type": "object",
        "required": ["a", "b"],
        "additionalProperties": SMALL,
        "propertyNames": {"maxLength": 1, "pattern": "[abc]"},
    },
    "nested": {
        "type": "array",
        "items": {"type": "object", "additionalProperties": {"$ref": "#/$defs/open"}},
        "minItems": 1,
        "$defs": {"open": {"type": "object", "patternProperties": {"^x?a$": SMALL}}},
    },
    "different open objects": {
        "type": "array",
        "uniqueItems": True,
        "maxItems": 3,
        "items": {"type": "object", "additionalProperties": {"enum": [1]}, "maxProperties": 2},
    },
}


def strict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    assert len(set(names)) == len(names), names
    return dict(pairs)


@pytest.fixture(scope="module")
def joined(masks) -> Any:
    """Tokens that hold whole names, and the escapes of their letters."""
    vocabulary = masks.vocabulary
    tokens = vocabulary.token_bytes + PIECES
    return type(masks)(Vocabulary(tokens, vocabulary.special_ids, vocabulary.eos_ids))


def names_walk(masks: Any, tree: Mapping[str, Any], r: Random, limit: int) -> bytes | None:
    """A random text that likes names of few letters."""
    constraint = masks.start(tree)
    tokens = masks.vocabulary.token_bytes
    liked = {i for i, token in enumerate(tokens) if not set(token) - set(b'ab0u061\\"{}:, ')}
    written: list[bytes] = []
    while not constraint.is_terminated():
        allowed = masks.allowed(constraint)
        assert allowed, b"".join(written)
        if masks.EOS in allowed and (r.random() < 0.3 or len(written) > limit):
            break
        allowed -= {masks.EOS} if len(allowed) > 1 else set()
        ends = [i for i in allowed if tokens[i] in (b"}", b"]", b'"')]
        few = sorted(allowed & liked) or sorted(allowed)
        late = len(written) > limit // 2 and ends
        token_id = r.choice(ends if late else few)
        constraint.accept(token_id)
        written.append(b"" if token_id == masks.EOS else tokens[token_id])
        if len(written) > 2 * limit:
            return None
    return b"".join(written)


@pytest.mark.parametrize("schema", OPEN.values(), ids=OPEN.keys())
@pytest.mark.parametrize("whole_bytes", [True, False], ids=["bytes", "joined tokens"])
def test_no_walk_writes_a_name_twice(masks, joined, schema: Any, whole_bytes: bool) -> None:
    vocabulary = masks if whole_bytes else joined
    ended = 0
    for seed in range(40):
        text = names_walk(vocabulary, {"kind": "json", "schema": schema}, Random(seed), 60)
        if text is None:
            continue
        ended += 1
        value = json.loads(text, object_pairs_hook=strict)
        assert list(Draft202012Validator(schema).iter_errors(value)) == [], text
    assert ended > 10


@pytest.mark.parametrize("schema", [{"type": "object"}, OPEN["a schema for others"]], ids=str)
@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ('{"a": 0, "b": 0}', True),
        ('{"a": 0, "a": 0}', False),
        ('{"a": 0, "ab": 0, "": 0}', True),
        ('{"": 0, "": 0}', False),
        ('{"\\u0061": 0}', False),
        ('{"a": 0, "\\u0061": 0}', False),
        ('{"\\u001f": 0, "\\n": 0}', True),
        ('{"\\u001f": 0, "\\u001f": 0}', False),
        ('{"\\u001F": 0}', False),
        ('{"a\\"b": 0, "a\\\\": 0}', True),
        ('{"a\\"b": 0, "a\\"b": 0}', False),
        ('{"\\\\u0061": 0}', True),
        ('{"é": 0, "è": 0}', True),
        ('{"é": 0, "é": 0}', False),
    ],
)
def test_names_by_text(masks, joined, schema: Any, text: str, accepted: bool) -> None:
    tree = {"kind": "json", "schema": schema}
    assert masks.accepts(tree, text) is accepted
    tokens = joined.compiler._tokenizer.tokenize_str(text)
    assert joined.accepts(tree, tokens) is accepted


def test_names_in_objects_within_and_beside(masks) -> None:
    tree = {"kind": "json_object"}
    assert masks.accepts(tree, '{"a": {"a": [{"a": 1}, {"a": {"b": 1}}]}, "b": {"a": 1}}')
    assert not masks.accepts(tree, '{"a": {"a": 1}, "b": [{"a": 1, "b": 2, "a": 3}]}')
    assert not masks.accepts(tree, '{"a": {"a": 1, "b": "\\"a\\": 1"}, "a": 1}')


def test_a_name_of_the_schema_in_disguise_is_not_another_one(masks) -> None:
    """Spelled with an escape, it once came with a value of any kind."""
    tree = {"kind": "json", "schema": {"properties": {"a": {"type": "integer"}}, "type": "object"}}
    assert masks.accepts(tree, '{"a": 1, "b": "x"}')
    assert not masks.accepts(tree, '{"\\u0061": "x"}')
    assert not masks.accepts(tree, '{"b": 1, "\\u0061": "x"}')


@pytest.mark.parametrize(
    "schema",
    [
        {"propertyNames": {"enum": ["a", "b"]}, "minProperties": 3},
        {"propertyNames": {"pattern": "^[ab]$"}, "minProperties": 3},
        {"patternProperties": {"^[ab]$": True}, "additionalProperties": False, "minProperties": 3},
        {
            "properties": {"a": True},
            "patternProperties": {"^[ab]$": True},
            "additionalProperties": False,
            "minProperties": 3,
        },
        {"propertyNames": {"maxLength": 0}, "minProperties": 2},
    ],
    ids=str,
)
def test_more_members_than_names_are_no_object(masks, schema: dict[str, Any]) -> None:
    tree = {"kind": "json", "schema": {"type": "object", **schema}}
    with pytest.raises(ConstraintError, match="no value"):
        masks.start(tree)


def test_what_is_forced_is_what_the_mask_allows(joined) -> None:
    schema = {
        "type": "object",
        "required": ["kind", "rest"],
        "properties": {
            "kind": {"const": "x"},
            "rest": {"type": "object", "patternProperties": {"^abc-": {"const": 1}}}
            | {"additionalProperties": False, "minProperties": 2},
        },
    }
    constraint = joined.start({"kind": "json", "schema": schema})
    num_forced = 0
    written: list[bytes] = []
    r = Random(3)
    while not constraint.is_terminated() and len(written) < 200:
        forced = constraint.forced_tokens()
        num_forced += len(forced)
        for token_id in forced or [r.choice(sorted(joined.allowed(constraint)))]:
            assert token_id in joined.allowed(constraint), b"".join(written)
            constraint.accept(token_id)
            written.append(joined.vocabulary.token_bytes[token_id])
    assert num_forced > 8
    assert b"".join(written).startswith(b'{"kind": "x", "rest": {"abc-')


@pytest.mark.parametrize("schema", OPEN.values(), ids=OPEN.keys())
def test_answers_that_are_closed_in_time(joined, schema: Any) -> None:
    compiler, tokens = joined.compiler, joined.vocabulary.token_bytes
    spec = joined.spec({"kind": "json", "schema": schema})
    short = compiler.shortest(spec)
    for seed in range(6):
        r = Random(seed)
        most = 4 * compiler.num_tokens(short.text) + 30 + r.randint(0, 30)
        blueprint = compiler.blueprint(spec)
        budget = compiler.closing(blueprint, short, most)
        constraint = compiler.factory(Constraint.of(blueprint, budget).dumps())
        written: list[bytes] = []
        while not constraint.is_terminated():
            allowed = sorted(joined.allowed(constraint) - {joined.EOS})
            if not allowed:
                break
            liked = [i for i in allowed if not set(tokens[i]) - set(b'ab0{}:", ')]
            token_id = r.choice(liked or allowed)
            constraint.accept(token_id)
            written.append(tokens[token_id])
        value = json.loads(b"".join(written), object_pairs_hook=strict)
        assert list(Draft202012Validator(schema).iter_errors(value)) == [], b"".join(written)
        assert len(written) <= 2 * most  # a name that is left may be a longer one
