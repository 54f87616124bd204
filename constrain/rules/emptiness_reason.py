"""Explains why a schema has no instance: names the innermost required schema without one, and a
keyword without which it would have one.
"""

from __future__ import annotations

from collections.abc import Iterator

from formgate.constrain.algebra.algebra import Algebra
from formgate.constrain.errors import ConstraintError
from formgate.constrain.schema.resources import Resources, SchemaNode

NO_INSTANCE = (
    "no value at all satisfies it. Look for bounds, types or constants that contradict each other, "
    "and for a `required` member that requires its own schema again"
)


def no_instance_error(algebra: Algebra, resources: Resources) -> ConstraintError:
    node, seen = resources.root, set()
    try:
        while node not in seen:
            seen.add(node)
            needed = _needed(node, resources)
            node = next((sub for sub in needed if algebra.is_empty(((sub, True),))), node)
        keyword = _at_fault(node, algebra)
    except ConstraintError:
        keyword = None
    path = node.path if keyword is None else (*node.path, keyword)
    return ConstraintError.at(path, NO_INSTANCE, keyword=keyword)


def _needed(node: SchemaNode, resources: Resources) -> Iterator[SchemaNode]:
    """The sub-schemas that every instance, or a part of it, must satisfy."""
    schema = node.schema
    if isinstance(schema, bool):
        return
    if "$ref" in schema:
        yield resources.target(node, "$ref")
    for at in range(len(schema.get("allOf", ()))):
        yield resources.child(node, "allOf", at)
    if schema.get("type") == "object":
        for name in schema.get("required", ()):
            if name in schema.get("properties", {}):
                yield resources.child(node, "properties", name)
    if schema.get("type") == "array" and schema.get("minItems", 0) > 0:
        for at in range(min(len(schema.get("prefixItems", ())), int(schema["minItems"]))):
            yield resources.child(node, "prefixItems", at)
        if "items" in schema and not isinstance(schema["items"], list):
            yield resources.child(node, "items")


def _at_fault(node: SchemaNode, algebra: Algebra) -> str | None:
    """A keyword whose removal gives the schema an instance. `type` is tried last, as any other
    keyword explains more.
    """
    schema = node.schema
    if isinstance(schema, bool) or not algebra.is_empty(((node, True),)):
        return None
    for keyword in sorted(schema, key=lambda keyword: keyword == "type"):
        less = {name: value for name, value in schema.items() if name != keyword}
        if not algebra.is_empty(((SchemaNode(less, node.path, node.base), True),)):
            return str(keyword)
    return None
