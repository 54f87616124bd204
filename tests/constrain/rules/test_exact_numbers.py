"""Numbers that float64 does not hold: a mask must not round what a schema says. The oracle reads
schemas and texts as decimals, as they are written.
"""

from __future__ import annotations

import json
from decimal import Decimal
from random import Random
from typing import Any

import jsonschema
import pytest

from formgate.constrain.answer_check import AnswerCheck
from formgate.constrain.errors import ConstraintError
from tests.constrain.conftest import Masks

KEYWORDS = ("const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
EDGES = (2**53, 2**63, 2**64, 10**16, 10**18, 10**20, 1234567890123456789, 9007199254740993)


Exact = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer",
        lambda _, value: isinstance(value, Decimal) and value == value.to_integral_value(),
    ),
)


def exactly(text: str) -> Any:
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def number(r: Random) -> float:
    """An integer about an edge, a float of many digits, or a small one."""
    match r.randint(0, 3):
        case 0:
            return r.choice([1, -1]) * (r.choice(EDGES) + r.randint(-2, 2))
        case 1:
            return float(r.choice(EDGES))
        case 2:
            return r.uniform(-1, 1) * 10.0 ** r.randint(-9, 15)
    return round(r.uniform(-100, 100), r.randint(0, 3))


def spellings(value: float) -> list[str]:
    near = [int(value) + step for step in (-1, 0, 1)]
    return [json.dumps(value), f"{value:.0f}", *map(str, near)]


def cases(seed: int) -> list[tuple[dict[str, Any], list[str]]]:
    r = Random(seed)
    made = []
    for keyword in KEYWORDS:
        value = number(r)
        schema: dict[str, Any] = {keyword: [value, "a"] if keyword == "enum" else value}
        # A bound alone says nothing of other types.
        if keyword not in ("const", "enum") or r.random() < 0.7:
            schema["type"] = r.choice(["integer", "number", ["number", "null"]])
        made.append((schema, spellings(value) + spellings(number(r))))
    return made


@pytest.mark.parametrize("seed", range(60))
def test_no_number_is_rounded(masks: Masks, seed: int) -> None:
    for schema, texts in cases(seed):
        oracle = Exact(exactly(json.dumps(schema)))
        valid = {text for text in texts if oracle.is_valid(exactly(text))}
        tree = {"kind": "json", "schema": schema}
        try:
            accepted = {text for text in texts if masks.accepts(tree, text)}
            walked = masks.walk(tree, Random(seed))
        except ConstraintError as error:
            assert "no value at all" in str(error)  # noqa: PT017
            assert not valid
            continue
        assert accepted <= valid, schema
        check = AnswerCheck(json.dumps(schema))
        assert not [text for text in accepted if check.failure(text)], schema
        # A number may have another spelling than the mask's, but an integer has one.
        assert {
            text for text in valid if text.lstrip("-").isdigit() and text != "-0"
        } <= accepted, schema
        assert walked is None or oracle.is_valid(exactly(walked)), (schema, walked)
