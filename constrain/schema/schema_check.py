"""Checks that a JSON Schema is valid: each keyword's value has the form that the metaschemas
require, and no keyword is one that formgate always refuses.
"""

from __future__ import annotations

from typing import Any

from formgate.constrain.errors import ConstraintError
from formgate.constrain.schema.dialect import draft_of
from formgate.constrain.schema.ledger import LEDGER, SHAPE_TESTS, How, Shape
from formgate.constrain.schema.resources import Resources, SchemaNode

MAX_DEPTH = 200  # levels of sub-schemas; the root is the first


def _no_value(_: Any) -> bool:
    return False


# A test for each keyword whose value is checked. It always fails for a refused keyword.
_TESTS = {
    name: _no_value if entry.how is How.REFUSED else SHAPE_TESTS[entry.shape]
    for name, entry in LEDGER.items()
    if entry.shape is not Shape.ANY or entry.how is How.REFUSED
}


def checked(schema: Any) -> Resources:
    """Check a schema, and return its sub-schemas. Raises ConstraintError if it is not a schema or
    has a refused keyword.
    """
    if not isinstance(schema, dict | bool):
        raise ConstraintError(
            f"A JSON Schema is an object or a boolean, not {_kind(schema)}.",
            code="invalid_schema",
        )
    resources = Resources(schema, MAX_DEPTH)
    draft = draft_of(schema)
    for node in resources:
        schema = node.schema
        if isinstance(schema, bool):
            continue
        if draft.ref_hides_siblings and isinstance(schema.get("$ref"), str):
            continue
        for keyword, value in schema.items():
            test = _TESTS.get(keyword)
            if test is not None and not test(value):
                raise _refusal(node, keyword)
    return resources


def _refusal(node: SchemaNode, keyword: str) -> ConstraintError:
    path, entry = (*node.path, keyword), LEDGER[keyword]
    if not SHAPE_TESTS[entry.shape](node.schema[keyword]):
        why = f"its value must be {entry.shape.value}"
        return ConstraintError.at(path, why, code="invalid_schema", keyword=keyword)
    why = f"it is not enforced. {entry.note}".rstrip(". ")  # the message ends with a period
    return ConstraintError.at(path, why, keyword=keyword)


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
