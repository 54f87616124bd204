"""Removes a keyword from a JSON Schema, so that the rest of the schema can be enforced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from formgate.constrain.schema.ledger import IN_LIST, IN_MAP, IN_SCHEMA

# A schema below one of these may not be loosened alone: the whole might allow less then.
_WHOLE = frozenset({"not", "if", "oneOf", "contains"})
# Keywords whose meaning depends on a neighbour; they go with it.
_DEPENDENT: Mapping[str, tuple[str, ...]] = {
    "patternProperties": ("additionalProperties",),
    "prefixItems": ("items",),
    "items": ("additionalItems",),
    "if": ("then", "else"),
    "contains": ("minContains", "maxContains"),
}
_UNEVALUATED = ("unevaluatedProperties", "unevaluatedItems")
# Without these, a schema would describe something else.
_NEVER = frozenset({"type", "properties", "required", "$defs", "definitions"})


def without_keyword(schema: Mapping[str, Any], pointer: str) -> tuple[dict[str, Any], str] | None:
    """The schema without the keyword at `pointer` (RFC 6901), and the pointer of what was removed:
    the keyword, or the outermost `not`, `if`, `oneOf` or `contains` around it. None if nothing
    can be removed there. The new schema allows all that the old one does.
    """
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    path = _to_remove(schema, parts)
    if path is None or path[-1] in _NEVER:
        return None
    made: dict[str, Any] = dict(schema)
    place: Any = made
    for part in path[:-1]:
        key = int(part) if isinstance(place, list) else part
        place[key] = list(place[key]) if isinstance(place[key], list) else dict(place[key])
        place = place[key]
    for name in (path[-1], *_DEPENDENT.get(path[-1], ()), *_UNEVALUATED):
        place.pop(name, None)
    return made, "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)


def _to_remove(schema: Mapping[str, Any], parts: list[str]) -> list[str] | None:
    """The path of the keyword to remove. Its last part is a keyword; the parts before it are
    keywords, names and indexes."""
    place: Any = schema
    at = 0
    while at < len(parts):
        keyword = parts[at]
        if not isinstance(place, dict) or keyword not in place:
            return None
        value, rest = place[keyword], parts[at + 1 :]
        inner = _inner(keyword, value, rest)
        if keyword in _WHOLE or inner is None:
            # Below a keyword that holds schemas, a place that is not there is a mistake.
            misplaced = len(rest) > 1 and keyword in IN_MAP | IN_LIST and keyword not in _WHOLE
            return None if misplaced else parts[: at + 1]
        place, used = inner
        at += 1 + used
    return None  # the pointer leads to a schema, not to a keyword


def _inner(keyword: str, value: Any, rest: list[str]) -> tuple[Any, int] | None:
    """The sub-schema of a keyword's value that `rest` leads to, and how many of its parts; None if
    it leads to none."""
    if not rest:
        return None
    if keyword in IN_MAP and isinstance(value, dict) and len(rest) > 1:
        return (value[rest[0]], 1) if rest[0] in value else None
    if keyword in IN_LIST and isinstance(value, list) and len(rest) > 1:
        index = int(rest[0]) if rest[0].isdecimal() else len(value)
        return (value[index], 1) if index < len(value) else None
    return (value, 0) if keyword in IN_SCHEMA and isinstance(value, dict) else None
