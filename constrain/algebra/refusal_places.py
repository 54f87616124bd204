"""Where in a schema a refusal belongs that arose among alternatives or rules, which do not know
what keyword they come from. Nothing here runs unless a schema is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from formgate.constrain.errors import ConstraintError, Unplaced
from formgate.constrain.schema.resources import SchemaNode, subschemas

# What is below these speaks of the same value as the schema that they stand in.
_SAME_VALUE = frozenset(
    {
        *("allOf", "anyOf", "oneOf", "not", "if", "then", "else"),
        *("dependentSchemas", "dependencies"),
    }
)

Target = Callable[[SchemaNode, str], SchemaNode]


def placed(error: Unplaced, nodes: Iterable[SchemaNode], target: Target) -> ConstraintError:
    """At the nearest of its keywords that speaks of the same value as `nodes`; `error` itself if
    there is none.
    """
    for node in same_value(nodes, target):
        for keyword in error.keywords:
            if keyword in node.schema:
                path = (*node.path, keyword)
                return ConstraintError.at(path, error.why, code=error.code, keyword=keyword)
    return error


def same_value(nodes: Iterable[SchemaNode], target: Target) -> Iterator[SchemaNode]:
    """The schemas under which the value of `nodes` is, the nearest first, but for booleans."""
    waiting = list(nodes)
    seen = set()
    for node in waiting:  # which grows
        if isinstance(node.schema, bool) or node.path in seen:
            continue
        seen.add(node.path)
        yield node
        for path, sub in subschemas(node.schema, node.path):
            if path[len(node.path)] in _SAME_VALUE:
                waiting.append(SchemaNode(sub, path, node.base))
        if isinstance(node.schema.get("$ref"), str):
            waiting.append(target(node, "$ref"))
