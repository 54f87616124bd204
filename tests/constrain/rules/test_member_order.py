"""The order of members: as the schema names them; names that have no place in it come in any order;
members that it does not name come last, whatever was left out before them.
"""

from __future__ import annotations

import json
from itertools import chain, combinations, permutations
from typing import Any

import jsonschema
import pytest

# Each with the names that it speaks of.
IN_ANY_ORDER = (
    ({"dependentRequired": {"a": ["b"]}}, "ab"),
    ({"dependentRequired": {"a": ["b", "c"]}, "maxProperties": 2}, "abc"),
    ({"oneOf": [{"required": ["a", "b"]}, {"required": ["a", "c"]}]}, "abc"),
    ({"anyOf": [{"required": ["a"]}, {"required": ["b"]}], "minProperties": 2}, "ab"),
    ({"not": {"required": ["a", "c"]}, "required": ["b"]}, "abc"),
    ({"required": ["c"], "additionalProperties": {"type": "integer"}}, "c"),
)


@pytest.mark.parametrize(("schema", "spoken_of"), IN_ANY_ORDER)
def test_names_without_a_place_come_in_any_order(masks, schema: Any, spoken_of: str) -> None:
    tree = {"kind": "json", "schema": {"type": "object", **schema}}
    oracle = jsonschema.Draft202012Validator(tree["schema"])
    subsets = chain.from_iterable(combinations("abc", size) for size in range(4))
    valid = 0
    for names in chain.from_iterable(map(permutations, subsets)):
        if list(names) != sorted(names, key=lambda name: name not in spoken_of):
            continue  # those that the schema does not speak of come last
        instance = dict.fromkeys(names, 1)
        valid += oracle.is_valid(instance)
        assert masks.accepts(tree, json.dumps(instance)) == oracle.is_valid(instance), instance
    assert valid > 2


@pytest.mark.parametrize("whitespace", [None, r"[ \n]{0,2}"])
@pytest.mark.parametrize(
    "rest",
    [
        {"minProperties": 1},
        {"additionalProperties": {"type": "integer"}, "maxProperties": 3},
        {"patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False},
        {"propertyNames": {"maxLength": 1}},
    ],
    ids=json.dumps,
)
def test_members_without_a_name_follow_any_that_were_left_out(
    masks, rest: dict[str, Any], whitespace: str | None
) -> None:
    tree: dict[str, Any] = {
        "kind": "json",
        "schema": {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, **rest},
    }
    if whitespace is not None:
        tree["whitespace_pattern"] = whitespace
    for size in range(3):
        for names in combinations("abc", size):
            assert masks.accepts(tree, json.dumps(dict.fromkeys((*names, "x"), 1))), names
