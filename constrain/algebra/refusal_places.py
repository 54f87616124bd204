"""Finds the place in a schema of an error that arose among alternatives or rules, which do not know
their keyword. It runs only when a schema is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from formgate.constrain.errors import ConstraintError, Unplaced
from formgate.constrain.schema.resources import SchemaNode, subschemas

# Keywords whose sub-schemas apply to the same instance as the schema around them.
_SAME_VALUE = frozenset(
    {
        *("allOf", "anyOf", "oneOf", "not", "if", "then", "else"),
        *("dependentSchemas", "dependencies"),
    }
)

Target = Callable[[SchemaNode, str], SchemaNode]


def placed(error: Unplaced, nodes: Iterable[SchemaNode], target: Target) -> ConstraintError:
    """Return the error at the nearest of its keywords that applies to the same instance as `nodes`;
    `error` itself if there is none.
    """
    for node in same_value(nodes, target):
        for keyword in error.keywords:
            if keyword in node.schema:
                path = (*node.path, keyword)
                return ConstraintError.at(path, error.why, code=error.code, keyword=keyword)
    return error


def same_value(nodes: Iterable[SchemaNode], target: Target) -> Iterator[SchemaNode]:
    """The schemas that apply to the same instance as `nodes`, the nearest first; no booleans."""
    waiting = list(nodes)
    seen = set()
    for node in waiting:  # grows while it is iterated
        if isinstance(node.schema, bool) or node.path in seen:
            continue
        seen.add(node.path)
        yield node
        for path, sub in subschemas(node.schema, node.path):
            if path[len(node.path)] in _SAME_VALUE:
                waiting.append(SchemaNode(sub, path, node.base))
        if isinstance(node.schema.get("$ref"), str):
            waiting.append(target(node, "$ref"))
