"""OpenAPI 3.0's `nullable: true`, which JSON Schema does not know: null is allowed beside what the
schema allows. Libraries that describe an API write it in schemas of tools and answers.
"""

from __future__ import annotations

from typing import Any

from formgate.constrain.schema.ledger import IN_LIST, IN_MAP, IN_SCHEMA

_HOLDERS = IN_MAP | IN_LIST | IN_SCHEMA
_NULL = {"type": "null"}
_COMBINING = frozenset({"$ref", "allOf", "anyOf", "oneOf", "not", "if"})
_KEPT = frozenset({"$schema", "$id", "$defs", "definitions", "title", "description", "default"})


def offering_null(schema: Any) -> Any:
    """The schema with null where `nullable` allows it; the same object if nothing changes. Where a
    `type` or an `enum` decides, null joins it, so that each keyword keeps its place.
    """
    try:
        return _offering(schema)
    except RecursionError:
        return schema  # the compiler reports its depth


def _offering(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    made = schema
    for keyword in schema.keys() & _HOLDERS:
        value = schema[keyword]
        new = _inside(keyword, value)
        if new is not value:
            made = {**made, keyword: new}
    return _with_null(made) if schema.get("nullable") is True else made


def _inside(keyword: str, value: Any) -> Any:
    """The value of a keyword that holds schemas."""
    if isinstance(value, dict) and keyword in IN_MAP:
        parts = {name: _offering(part) for name, part in value.items()}
        return parts if any(parts[name] is not value[name] for name in value) else value
    if isinstance(value, list) and keyword in IN_LIST:
        items = [_offering(part) for part in value]
        changed = any(new is not old for new, old in zip(items, value, strict=True))
        return items if changed else value
    return _offering(value) if keyword in IN_SCHEMA else value


def _with_null(schema: dict[str, Any]) -> dict[str, Any]:
    kind, enum = schema.get("type"), schema.get("enum")
    made = dict(schema)
    if "const" in made or not made.keys().isdisjoint(_COMBINING):
        kept = {key: made.pop(key) for key in _KEPT & made.keys()}
        del made["nullable"]
        return {**kept, "anyOf": [made, _NULL]}
    if isinstance(kind, str) and kind != "null":
        made["type"] = [kind, "null"]
    elif isinstance(kind, list) and "null" not in kind:
        made["type"] = [*kind, "null"]
    if isinstance(enum, list) and None not in enum:
        made["enum"] = [*enum, None]
    return made
