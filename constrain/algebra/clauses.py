"""A keyword as a pair: the alternatives in which it holds, and those in which it fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from formgate.constrain.algebra.shapes import Shape
from formgate.constrain.errors import ConstraintError
from formgate.constrain.schema.resources import SchemaNode

Ways = Callable[[], list[Shape]]


@dataclass(frozen=True, slots=True)
class Clause:
    """Both lists are worked out when they are asked for: a negation is seldom needed."""

    holds: Ways
    fails: Ways


def listed(holds: list[Shape], fails: list[Shape]) -> Clause:
    return Clause(lambda: holds, lambda: fails)


_INSTEAD = {
    "multipleOf": "say which numbers may come, with bounds, an `enum` or another `multipleOf`",
    "uniqueItems": "say how many items there are to be, or leave `uniqueItems` out there",
    "unevaluatedProperties": "write `additionalProperties`, whose negation is enforced",
    "unevaluatedItems": "write `items`, whose negation is enforced",
}


def not_negatable(node: SchemaNode, keyword: str) -> Ways:
    """The failing side of a keyword whose negation no mask can enforce."""

    def refuse() -> list[Shape]:
        raise ConstraintError.at(
            (*node.path, keyword),
            "its negation is asked for (by `not`, `oneOf`, `if` or the like), which cannot be "
            f"enforced. Instead, {_INSTEAD[keyword]}",
            keyword=keyword,
        )

    return refuse
