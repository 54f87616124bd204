"""Lower bounds on the size of a schema's smallest instance, and on its longest run of forced
values. With references that double at each level, a short schema can demand an exponential
instance. Takes linear time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from formgate.constrain.errors import ConstraintError
from formgate.constrain.schema.resources import Resources, SchemaNode, subschemas

MAX_BYTES = 1_000_000  # of the smallest instance
# Consecutive forced numbers, strings and names. Computing their tokens takes half a second.
MAX_FORCED = 4_000

# A schema with fewer than all of these cannot exceed the limits.
_FEW_REFERENCES = 20
_FEW_ITEMS = 16
_FEW_SCHEMAS = 2_000


class _Least(NamedTuple):
    size: int  # bytes
    forced: int  # values and names in the longest run of forced ones
    whole: bool  # whether the whole value is forced


_ANYTHING = _Least(1, 0, False)


def refuse_too_large(resources: Resources, *, ref_alone: bool) -> None:
    """Raises ConstraintError if an instance cannot stay within the limits. The error names the
    innermost schema at fault.
    """
    if not _may_be_large(resources):
        return
    sizes = _Sizes(resources, ref_alone)
    for node in sizes.innermost_first():
        least = sizes.of(node)
        if least.size <= MAX_BYTES and least.forced <= MAX_FORCED:
            continue
        keyword = next((k for k in _AT_FAULT if k in node.schema), None)
        raise ConstraintError.at(
            node.path if keyword is None else (*node.path, keyword),
            (
                f"its shortest value has more than {MAX_BYTES} bytes"
                if least.size > MAX_BYTES
                else f"it has more than {MAX_FORCED} names and values in a row that are all forced"
            )
            + ". Lower the counts, or make members optional that refer to further ones",
            code="schema_too_complex",
            keyword=keyword,
        )


_AT_FAULT = ("minItems", "required", "prefixItems", "items", "$ref", "allOf", "anyOf", "oneOf")


def _may_be_large(resources: Resources) -> bool:
    references = schemas = 0
    for node in resources:
        schemas += 1
        schema = node.schema
        if isinstance(schema, bool):
            continue
        references += "$ref" in schema
        least = schema.get("minItems", 0)
        if references > _FEW_REFERENCES or schemas > _FEW_SCHEMAS or least > _FEW_ITEMS:
            return True
    return False


class _Sizes:
    def __init__(self, resources: Resources, ref_alone: bool) -> None:
        self._resources = resources
        self._ref_alone = ref_alone
        self._known: dict[SchemaNode, _Least] = {}
        self._running: set[SchemaNode] = set()

    def innermost_first(self) -> Iterator[SchemaNode]:
        """The schemas that may apply to an instance or a part of it."""
        seen = {self._resources.root}
        waiting: list[tuple[SchemaNode, bool]] = [(self._resources.root, False)]
        while waiting:
            node, is_done = waiting.pop()
            if is_done:
                yield node
                continue
            waiting.append((node, True))
            for sub in self._below(node):
                if sub not in seen:
                    seen.add(sub)
                    waiting.append((sub, False))

    def _below(self, node: SchemaNode) -> Iterator[SchemaNode]:
        schema = node.schema
        if isinstance(schema, bool):
            return
        if "$ref" in schema:
            yield self._resources.target(node, "$ref")
            if self._ref_alone:
                return
        for path, _ in subschemas(schema, node.path):
            parts = path[len(node.path) :]
            if parts[0] not in ("$defs", "definitions", "not", "if"):
                yield self._resources.child(node, *parts)

    def of(self, node: SchemaNode) -> _Least:
        """A lower bound for the instances of a node."""
        known = self._known.get(node)
        if known is None:
            if node in self._running:
                return _ANYTHING
            self._running.add(node)
            known = self._known[node] = self._least(node)
            self._running.discard(node)
        return known

    def _least(self, node: SchemaNode) -> _Least:
        schema, child = node.schema, self._resources.child
        if isinstance(schema, bool):
            return _ANYTHING
        parts: list[_Least] = []
        if "$ref" in schema:
            parts.append(self.of(self._resources.target(node, "$ref")))
            if self._ref_alone:
                return parts[0]
        for keyword in ("anyOf", "oneOf", "allOf"):
            subs = [self.of(child(node, keyword, at)) for at in range(len(schema.get(keyword, ())))]
            if subs and keyword == "allOf":
                parts += subs
            elif subs:
                least = min(sub.size for sub in subs)
                whole = len(subs) == 1 and subs[0].whole
                parts.append(_Least(least, max(sub.forced for sub in subs), whole))
        parts.append(self._own(node))
        return _Least(
            max(part.size for part in parts),
            max(part.forced for part in parts),
            any(part.whole for part in parts),
        )

    def _own(self, node: SchemaNode) -> _Least:
        schema = node.schema
        if "const" in schema:
            return _Least(len(json.dumps(schema["const"])), 1, True)
        if "enum" in schema:
            least = min(len(json.dumps(value)) for value in schema["enum"])
            return _Least(least, 1, len(schema["enum"]) == 1)
        kinds = schema.get("type")
        if kinds == "null":
            return _Least(4, 1, True)
        if kinds == "object":
            return self._object(node)
        if kinds == "array":
            return self._array(node)
        return _ANYTHING

    def _object(self, node: SchemaNode) -> _Least:
        schema = node.schema
        properties = schema.get("properties", {})
        required = set(schema.get("required", ()))
        of_names = {
            name: self.of(self._resources.child(node, "properties", name)) for name in properties
        }
        size = 2 + sum(len(name) + 4 for name in required)
        size += sum(of_names[name].size for name in required if name in of_names)
        runs = _Runs()
        for name, least in of_names.items():
            runs.add(least if name in required else least._replace(whole=False), 1)
        closed = schema.get("additionalProperties") is False and required.issuperset(properties)
        return _Least(size, runs.longest, runs.whole and closed)

    def _array(self, node: SchemaNode) -> _Least:
        schema, child = node.schema, self._resources.child
        least = int(schema.get("minItems", 0))
        items = schema.get("items", True)
        prefix = "prefixItems" if isinstance(schema.get("prefixItems"), list) else "items"
        first = [
            self.of(child(node, prefix, at))
            for at in range(len(schema[prefix]) if isinstance(schema.get(prefix), list) else 0)
        ]
        other = _ANYTHING if isinstance(items, list | bool) else self.of(child(node, "items"))
        times = max(least - len(first), 0)
        size = 2 + sum(item.size + 1 for item in first[:least]) + times * (other.size + 1)
        runs = _Runs()
        for at, item in enumerate(first):
            runs.add(item if at < least else item._replace(whole=False), 0)
        runs.add_many(other, times)
        return _Least(size, runs.longest, runs.whole and schema.get("maxItems") == least)


class _Runs:
    """The longest run of forced values among consecutive parts of a container."""

    def __init__(self) -> None:
        self.longest = 0
        self.whole = True
        self._run = 0

    def add(self, part: _Least, before: int) -> None:
        """`before`: forced values that precede the part, such as its name."""
        self._run += before + part.forced
        self.longest = max(self.longest, self._run)
        if not part.whole:
            self._run, self.whole = 0, False

    def add_many(self, part: _Least, times: int) -> None:
        if part.whole:
            self._run += times * (part.forced + 1)
            self.longest = max(self.longest, self._run)
        else:
            self.longest = max(self.longest, part.forced)
            self.whole = self.whole and not times
