"""Whether a JSON Schema is one: each keyword's value has the shape that the metaschemas ask for,
and none is of those that cannot be enforced at all.
"""

from __future__ import annotations

from typing import Any

from formgate.constrain.dialect import draft_of
from formgate.constrain.errors import ConstraintError
from formgate.constrain.keywords import LEDGER, SHAPE_TESTS, How, Shape
from formgate.constrain.resources import Resources

MAX_DEPTH = 200  # levels of schemas inside schemas, whatever their pointers; the root is the first

# The keywords whose value is looked at.
_TESTS = {
    name: SHAPE_TESTS[entry.shape]
    for name, entry in LEDGER.items()
    if entry.shape is not Shape.ANY or entry.how is How.REFUSED
}


def checked(schema: Any) -> Resources:
    """Raises ConstraintError for what is no schema, or asks for what cannot be enforced."""
    if not isinstance(schema, dict | bool):
        raise ConstraintError(
            f"A JSON Schema is an object or a boolean, not {_kind(schema)}.",
            code="invalid_schema",
        )
    resources = Resources(schema, MAX_DEPTH)
    draft = draft_of(schema)
    for node in resources:
        if isinstance(node.schema, bool):
            continue
        if draft.ref_hides_siblings and isinstance(node.schema.get("$ref"), str):
            continue
        for keyword, value in node.schema.items():
            test = _TESTS.get(keyword)
            if test is None:
                continue
            entry = LEDGER[keyword]
            if not test(value):
                raise ConstraintError.at(
                    (*node.path, keyword),
                    f"its value must be {entry.shape.value}",
                    code="invalid_schema",
                    keyword=keyword,
                )
            if entry.how is How.REFUSED:
                raise ConstraintError.at(
                    (*node.path, keyword), f"it is not enforced. {entry.note}", keyword=keyword
                )
    return resources


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
