"""Items that must differ and hold arrays or objects whose parts must differ in turn."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import jsonschema
from hypothesis import example, given, settings
from hypothesis import strategies as st

UNIQUE = {"type": "array", "uniqueItems": True}
VALUES = ["a", "b", "ab", 1, 11, True, None, 1.5, ""]
ENUMS = st.lists(st.sampled_from(VALUES), min_size=1, max_size=3, unique_by=json.dumps).map(
    lambda values: {"enum": values}
)
LIMITS = st.fixed_dictionaries(
    {}, optional={"minItems": st.integers(0, 1), "maxItems": st.integers(1, 3)}
)


def arrays(items: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(
        lambda item, unique, limits: {
            **({"uniqueItems": True} if unique else {}),
            "type": "array",
            "items": item,
            **limits,
        },
        items,
        st.sampled_from([True, True, True, False]),
        LIMITS,
    )


def objects(values: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    listed = st.builds(
        lambda members, required, limit: {
            "type": "object",
            "properties": members,
            "required": sorted(members)[:required],
            "additionalProperties": False,
            **({"maxProperties": limit} if limit else {}),
        },
        st.dictionaries(st.sampled_from("pq"), values, min_size=1, max_size=2),
        st.integers(0, 2),
        st.sampled_from([0, 2]),
    )
    named = st.builds(
        lambda value, names, limit: {
            "type": "object",
            "additionalProperties": value,
            "propertyNames": {"enum": names},
            **({"maxProperties": limit} if limit else {}),
        },
        values,
        st.sampled_from([["n"], ["n", "nn"], ["n", "m", "o"]]),
        st.sampled_from([0, 2]),
    )
    return st.one_of(listed, named)


INNER = st.recursive(
    ENUMS, lambda inner: st.one_of(arrays(inner), arrays(inner), objects(inner)), max_leaves=3
)
SCHEMAS = INNER.map(lambda items: {**UNIQUE, "items": items})


def letters(values: list[Any]) -> dict[str, Any]:
    return {**UNIQUE, "items": {"enum": values}}


@settings(max_examples=60, deadline=None)
@given(schema=SCHEMAS, seed=st.integers(0, 1000))
@example(schema={**UNIQUE, "items": letters(["a", "b"])}, seed=0)
@example(schema={**UNIQUE, "items": letters([1, 2])}, seed=1)
@example(schema={**UNIQUE, "items": {"const": "a" * 700}}, seed=0)
def test_a_walk_ends_in_a_valid_instance(masks, longer_masks, schema: Any, seed: int) -> None:
    tree = {"kind": "json", "schema": schema}
    for number in range(seed, seed + 4):
        which = longer_masks if number % 2 else masks
        text = which.walk(tree, Random(number), limit=600)
        if text is not None:
            jsonschema.Draft202012Validator(schema).validate(json.loads(text))


def plain_number(text: str) -> float:
    """1.0 is a spelling of 1, and not the one of every grammar."""
    number = float(text)
    return int(number) if number.is_integer() else number


def without_differences(schema: Any) -> Any:
    if isinstance(schema, list):
        return [without_differences(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        keyword: without_differences(value)
        for keyword, value in schema.items()
        if keyword != "uniqueItems"
    }


@settings(max_examples=60, deadline=None)
@given(schema=SCHEMAS, seed=st.integers(0, 1000))
def test_an_instance_passes_where_it_is_valid(masks, schema: Any, seed: int) -> None:
    """Whether the look-ahead forbids more than it has to."""
    loose = {"kind": "json", "schema": without_differences(schema)}
    judge = jsonschema.Draft202012Validator(schema)
    for number in range(seed, seed + 4):
        text = masks.walk(loose, Random(number), limit=60)
        if text is not None:
            value = json.loads(text, parse_float=plain_number)
            valid, plain = judge.is_valid(value), json.dumps(value)
            assert masks.accepts({"kind": "json", "schema": schema}, plain) is valid, plain
