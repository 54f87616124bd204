"""A short instance of a schema by one pass over it. The result may be invalid, not the shortest, or
None although there are instances; the caller checks it against the grammar.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from formgate.constrain.algebra.scalar_terms import quoted, string_token
from formgate.constrain.algebra.scalars import Strings
from formgate.constrain.errors import ConstraintError
from formgate.constrain.grammar.shortest import token_text
from formgate.constrain.regex.formats import FORMATS
from formgate.constrain.regex.regex_tree import RegexError
from formgate.constrain.schema.resources import Resources, SchemaNode

_CHEAPEST_FIRST = ("integer", "number", "string", "array", "object", "null", "boolean")
_MOST_ITEMS = 1_000
_LONGEST = 10_000  # characters


def quick_instance(resources: Resources, comma: str, colon: str) -> str | None:
    """Return the text of a likely instance, or None."""
    try:
        return _Instances(resources, comma, colon).of(resources.root)
    except (ConstraintError, RegexError, RecursionError):
        return None


class _Instances:
    def __init__(self, resources: Resources, comma: str, colon: str) -> None:
        self._resources = resources
        self._comma, self._colon = comma, colon
        self._known: dict[SchemaNode, str | None] = {}

    def of(self, node: SchemaNode) -> str | None:
        if node not in self._known:
            self._known[node] = None  # ends the recursion of a recursive schema
            layers = dict.fromkeys(self._layers(node, set()))
            self._known[node] = self._written(list(layers))
        return self._known[node]

    def _layers(self, node: SchemaNode, above: set[SchemaNode]) -> Iterator[SchemaNode]:
        """The schemas that apply to one value, with the shortest branch of every choice."""
        if node in above:
            return
        above.add(node)
        yield node
        child, schema = self._resources.child, node.schema
        if isinstance(schema, bool):
            return
        if "$ref" in schema:
            yield from self._layers(self._resources.target(node, "$ref"), above)
        for at in range(len(schema.get("allOf", ()))):
            yield from self._layers(child(node, "allOf", at), above)
        for keyword in ("anyOf", "oneOf"):
            branches = [child(node, keyword, at) for at in range(len(schema.get(keyword, ())))]
            written = [(text, one) for one in branches if (text := self.of(one)) is not None]
            if written:
                yield from self._layers(min(written, key=lambda pair: len(pair[0]))[1], above)

    def _written(self, nodes: list[SchemaNode]) -> str | None:
        if any(node.schema is False for node in nodes):
            return None
        layers = [node for node in nodes if node.schema is not True]
        types = set(_CHEAPEST_FIRST)
        for layer in layers:
            if (given := layer.schema.get("type")) is not None:
                listed = {given} if isinstance(given, str) else set(given)
                types &= listed | ({"integer"} if "number" in listed else set())
        for layer in layers:
            if "const" in layer.schema:
                return self._value(layer.schema["const"])
            if "enum" in layer.schema:
                texts = [self._value(value) for value in layer.schema["enum"]]
                return min(texts, key=len, default=None)
        for kind in _CHEAPEST_FIRST:
            if kind in types and (text := self._of_type(kind, layers)) is not None:
                return text
        return None

    def _of_type(self, kind: str, layers: list[SchemaNode]) -> str | None:
        match kind:
            case "integer" | "number":
                return _number(layers)
            case "string":
                return _string(layers)
            case "array":
                return self._array(layers)
            case "object":
                return self._object(layers)
        return "null" if kind == "null" else "true"

    def _value(self, value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, separators=(self._comma, self._colon))

    def _array(self, layers: list[SchemaNode]) -> str | None:
        least = int(max(layer.schema.get("minItems", 0) for layer in layers))
        if least > _MOST_ITEMS:
            return None
        items: list[str] = []
        for at in range(least):
            item = next((found for one in layers if (found := self._item(one, at))), None)
            text = "0" if item is None else self.of(item)
            if text is None:
                return None
            items.append(text)
        return self._joined("[", items, "]")

    def _item(self, layer: SchemaNode, at: int) -> SchemaNode | None:
        schema, child = layer.schema, self._resources.child
        tuples = "items" if isinstance(schema.get("items"), list) else "prefixItems"
        if at < len(schema.get(tuples, ())):
            return child(layer, tuples, at)
        rest = "additionalItems" if tuples == "items" else "items"
        return child(layer, rest) if rest in schema else None

    def _object(self, layers: list[SchemaNode]) -> str | None:
        required = dict.fromkeys(
            name
            for layer in layers
            if isinstance(names := layer.schema.get("required"), list)
            for name in names
        )
        declared = dict.fromkeys(
            name for layer in layers for name in layer.schema.get("properties", ())
        )
        members: list[str] = []
        for name in (*declared, *(name for name in required if name not in declared)):
            if name not in required:
                continue
            member = next((found for one in layers if (found := self._member(one, name))), None)
            text = "0" if member is None else self.of(member)
            if text is None:
                return None
            members.append(f"{quoted(name)}{self._colon}{text}")
        return self._joined("{", members, "}")

    def _joined(self, opening: str, parts: list[str], closing: str) -> str | None:
        # References can double a text with every level.
        if sum(map(len, parts)) > _LONGEST:
            return None
        return f"{opening}{self._comma.join(parts)}{closing}"

    def _member(self, layer: SchemaNode, name: str) -> SchemaNode | None:
        if name in layer.schema.get("properties", ()):
            return self._resources.child(layer, "properties", name)
        if "additionalProperties" in layer.schema:
            return self._resources.child(layer, "additionalProperties")
        return None


def _number(layers: list[SchemaNode]) -> str | None:
    """An integer within all bounds."""
    lower: float = -math.inf
    upper: float = math.inf
    step = 1
    for layer in layers:
        schema = layer.schema
        if (given := _bound(schema, "minimum", "exclusiveMinimum")) is not None:
            lower = max(lower, math.floor(given[0]) + 1 if given[1] else math.ceil(given[0]))
        if (given := _bound(schema, "maximum", "exclusiveMaximum")) is not None:
            upper = min(upper, math.ceil(given[0]) - 1 if given[1] else math.floor(given[0]))
        if isinstance(divisor := schema.get("multipleOf"), int):
            step = math.lcm(step, divisor)
    if lower <= 0 <= upper:
        return "0"
    number = -(-lower // step) * step if lower > 0 else upper // step * step
    return str(number) if lower <= number <= upper else None


def _bound(schema: Any, inclusive: str, exclusive: str) -> tuple[Any, bool] | None:
    """The bound, and whether it is exclusive."""
    strict = schema.get(exclusive)
    if strict is not None and not isinstance(strict, bool):
        return strict, True
    bound = schema.get(inclusive)
    return None if bound is None else (bound, strict is True)  # a boolean in draft 4


def _string(layers: list[SchemaNode]) -> str | None:
    strings = Strings(
        least=int(max(layer.schema.get("minLength", 0) for layer in layers)),
        patterns=frozenset(one.schema["pattern"] for one in layers if "pattern" in one.schema),
        formats=frozenset(
            name for one in layers if (name := one.schema.get("format", "")) in FORMATS
        ),
    )
    if strings.least > _LONGEST:
        return None
    if not strings.patterns and not strings.formats:
        return quoted("a" * strings.least)
    token = string_token(strings)
    return None if token is None else token_text(token)
