"""`uniqueItems` over few values: no walk repeats one, and none is led on where no value is left."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from formgate.constrain.masks.vocabulary import Vocabulary

JOINED = (b"1,", b"2, ", b'", "', b'",', b"1, 2", b"], [", b"true, ", b"}, {", b', "')
ITEMS = [
    {"enum": [1, 2, 3]},
    {"enum": [1, 11, 12]},
    {"enum": ["a", "b"]},
    {"enum": ["a", "ab"]},
    {"type": "boolean"},
    {"type": ["null", "boolean"]},
    {"enum": [[1], [2]]},
    {"enum": [{"a": 1}, {"a": 2}]},
    {"type": "integer", "minimum": 8, "maximum": 11},
]


@pytest.fixture(scope="module")
def joined(masks) -> Any:
    """Tokens that end one item and begin the next."""
    vocabulary = masks.vocabulary
    tokens = vocabulary.token_bytes + JOINED
    return type(masks)(Vocabulary(tokens, vocabulary.special_ids, vocabulary.eos_ids))


@pytest.mark.parametrize("items", ITEMS, ids=map(str, ITEMS))
@pytest.mark.parametrize("whole_bytes", [True, False], ids=["bytes", "joined tokens"])
def test_few_values(masks, joined, items: dict[str, Any], whole_bytes: bool) -> None:
    vocabulary = masks if whole_bytes else joined
    tree = {"kind": "json", "schema": {"type": "array", "items": items, "uniqueItems": True}}
    lengths = set()
    for seed in range(40):
        text = vocabulary.walk(tree, Random(seed), limit=80)
        assert text is not None, "there is always a way out"
        values = [json.dumps(value) for value in json.loads(text)]
        assert len(set(values)) == len(values), text
        lengths.add(len(values))
    assert max(lengths) >= 2


def test_arrays_that_begin_and_end_within_one_token(masks) -> None:
    """Items of one must differ, and may be those of another."""
    texts = [b"[1], [1], [1], [1]", b"[1], [1], [2, 2], [1]"]
    vocabulary = masks.vocabulary
    tokens = (*vocabulary.token_bytes, *texts)
    long = type(masks)(Vocabulary(tokens, vocabulary.special_ids, vocabulary.eos_ids))
    items = {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True}
    constraint = long.start({"kind": "json", "schema": {"type": "array", "items": items}})
    constraint.accept(ord("["))
    valid, repeating = len(tokens) - 2, len(tokens) - 1
    assert {valid, repeating} & long.allowed(constraint) == {valid}
    assert constraint.follows([valid])
    assert not constraint.follows([repeating])
