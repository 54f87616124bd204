"""The schemas that say of an array or an object, part by part, that it equals a constant."""

from __future__ import annotations

from typing import Any

from formgate.constrain.schema.resources import SchemaNode

_NOWHERE = "const:"  # the base of schemas that stand nowhere in the document


class ConstantSchemas:
    def __init__(self) -> None:
        self._nodes: dict[int, SchemaNode] = {}
        self._owners: dict[str, SchemaNode] = {}

    def of(self, owner: SchemaNode, value: Any) -> SchemaNode:
        """`owner`: the schema that names the constant."""
        node = self._nodes.get(id(value))
        if node is None:
            schema: dict[str, Any]
            if isinstance(value, list):
                schema = {"type": "array", "minItems": len(value), "maxItems": len(value)}
                if value:
                    schema["prefixItems"] = [{"const": item} for item in value]
            else:
                schema = {
                    "type": "object",
                    "properties": {name: {"const": part} for name, part in value.items()},
                    "required": list(value),
                    "additionalProperties": False,
                }
            name = f"#{len(self._nodes)}"
            node = self._nodes[id(value)] = SchemaNode(schema, ("const", name), _NOWHERE)
            self._owners[name] = self.owner(owner)
        return node

    def owner(self, node: SchemaNode) -> SchemaNode:
        """The schema of the document that a node belongs to: most often itself."""
        return self._owners[str(node.path[1])] if node.base == _NOWHERE else node
