"""An instance with the members of its objects in the order in which its schema names them: what
tells a refusal for the order of keys from a refusal for what they hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_APPLICATORS = ("allOf", "anyOf", "oneOf")


def reorder(root: Any, schema: Any, data: Any) -> Any:
    """Members that the schema does not name come last, in their own order."""
    if not isinstance(data, dict | list):
        return data
    schemas = list(_in_place(root, schema, set()))
    if isinstance(data, list):
        return [_item(root, schemas, at, item) for at, item in enumerate(data)]
    named = {name: None for one in schemas for name in _names(one)}
    names = [name for name in named if name in data]
    names += [name for name in data if name not in named]
    return {name: _member(root, schemas, name, data[name]) for name in names}


def _in_place(root: Any, schema: Any, seen: set[int]) -> Iterator[dict[str, Any]]:
    """The schemas that speak of the same value."""
    if not isinstance(schema, dict) or id(schema) in seen:
        return
    seen.add(id(schema))
    if isinstance(reference := schema.get("$ref"), str):
        yield from _in_place(root, _target(root, reference), seen)
    yield schema
    for keyword in _APPLICATORS:
        for sub in schema.get(keyword, ()):
            yield from _in_place(root, sub, seen)
    for keyword in ("if", "then", "else"):
        yield from _in_place(root, schema.get(keyword), seen)
    for keyword in ("dependencies", "dependentSchemas"):
        for sub in schema.get(keyword, {}).values():
            yield from _in_place(root, sub, seen)


def _names(schema: dict[str, Any]) -> Iterator[str]:
    yield from schema.get("properties", {})
    yield from schema.get("required", ())


def _member(root: Any, schemas: list[dict[str, Any]], name: str, value: Any) -> Any:
    subs = [s["properties"][name] for s in schemas if name in s.get("properties", {})]
    subs = subs or [
        sub
        for s in schemas
        for sub in (*s.get("patternProperties", {}).values(), s.get("additionalProperties"))
    ]
    return reorder(root, {"allOf": subs}, value)


def _item(root: Any, schemas: list[dict[str, Any]], at: int, value: Any) -> Any:
    subs: list[Any] = []
    for schema in schemas:
        items = schema.get("items")
        prefix = schema.get("prefixItems", items if isinstance(items, list) else [])
        subs += [prefix[at]] if at < len(prefix) else [items]
    return reorder(root, {"allOf": subs}, value)


def _target(root: Any, reference: str) -> Any:
    place = root
    if reference.startswith("#"):
        for part in reference[1:].split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~").replace("%25", "%")
            place = place.get(part) if isinstance(place, dict) else None
    return place
