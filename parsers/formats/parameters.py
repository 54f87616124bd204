"""The parameters of a tool one by one, for families that do not write arguments as one JSON
object. What holds between parameters cannot be enforced there, and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from formgate.parsers.formats.format import Tool, UnsupportedArguments
from formgate.parsers.tree.nodes import Node, Schema

_ENFORCED = frozenset(("type", "properties", "required", "additionalProperties"))
# What tells of a value and holds it to nothing. A description is often most of a schema.
_REMARKS = frozenset(
    (
        "title",
        "description",
        "default",
        "examples",
        "example",
        "deprecated",
        "readOnly",
        "writeOnly",
        "$comment",
    )
)
_ANNOTATIONS = _REMARKS | {"strict", "$schema", "$id", "$defs", "definitions"}
_LOCAL_REF = re.compile(r"#/(?:\$defs|definitions)/([^/]+)")


@dataclass(frozen=True)
class Parameter:
    name: str
    schema: Schema  # stands by itself: the definitions it refers to are in it, remarks are not
    required: bool
    pointer: str
    held: Node | None = None  # what its value must be, where more than the schema holds it


def parameters_of(tool: Tool, name_pattern: str) -> list[Parameter]:
    """In the schema's order. Raises UnsupportedArguments, for names too that the family's syntax
    cannot write."""
    root = tool.schema
    assert isinstance(root, dict)
    schema, at = root, ""
    for _ in range(len(root.get("$defs", {})) + len(root.get("definitions", {}))):
        found = _LOCAL_REF.fullmatch(schema.get("$ref", ""))
        if found is None:
            break
        at = schema["$ref"][1:]
        schema = _definition(root, found[0], found[1])
    for keyword in schema:
        if keyword not in _ENFORCED and keyword not in _ANNOTATIONS:
            raise UnsupportedArguments(tool, keyword, f"{at}/{keyword}")
    properties = dict(schema.get("properties", {}))
    required = schema.get("required", [])
    for name in required:
        properties.setdefault(name, schema.get("additionalProperties", True))
    made = []
    for name, sub in properties.items():
        escaped = name.replace("~", "~0").replace("/", "~1")
        pointer = f"{at}/properties/{escaped}"
        if not re.fullmatch(name_pattern, name):
            raise UnsupportedArguments(tool, "properties", pointer, unwritable=name)
        alone = _alone(tool, sub, root, pointer)
        held = None if tool.input is None else tool.quoted_input()
        made.append(Parameter(name, alone, name in required, tool.pointer + pointer, held))
    return made


def is_text(schema: Any) -> bool:
    """Any string at all."""
    return (
        isinstance(schema, Mapping)
        and schema.get("type") == "string"
        and not schema.keys() - _ANNOTATIONS - {"type"}
    )


def text_choices(schema: Any) -> list[str] | None:
    """The strings of an enum or const that allows nothing else."""
    if not isinstance(schema, Mapping) or schema.get("type", "string") != "string":
        return None
    if schema.keys() - _ANNOTATIONS - {"type", "enum", "const"}:
        return None
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list) or not values:
        return None
    return values if all(isinstance(value, str) for value in values) else None


def branches(schema: Any) -> list[Any]:
    """The alternatives of a schema that says nothing but which alternatives there are."""
    if not isinstance(schema, Mapping):
        return [schema]
    beside = schema.keys() - _ANNOTATIONS
    definitions = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    if beside == {"anyOf"}:
        return [
            {**sub, **definitions} if isinstance(sub, Mapping) else sub for sub in schema["anyOf"]
        ]
    if beside == {"type"} and isinstance(schema["type"], list):
        return [{**definitions, "type": kind} for kind in schema["type"]]
    return [schema]


def is_nullable_text(schema: Any) -> bool:
    ways = branches(schema)
    return len(ways) > 1 and all(is_text(way) or _is_null(way) for way in ways)


def _is_null(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") == "null"


def _definition(root: dict[str, Any], ref: str, name: str) -> dict[str, Any]:
    place = "$defs" if ref.startswith("#/$defs/") else "definitions"
    found = root.get(place, {}).get(name.replace("~1", "/").replace("~0", "~"))
    return found if isinstance(found, dict) else {}


def _alone(tool: Tool, schema: Any, root: dict[str, Any], pointer: str) -> Schema:
    if not isinstance(schema, dict):
        return bool(schema)
    held = {key: value for key, value in schema.items() if key not in _REMARKS}
    refs = list(_refs(held))
    definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
    if not refs:
        return held
    for ref in (*refs, *_refs(definitions)):
        # A reference to the whole or to a neighbour would point elsewhere out of its context.
        if not re.match(r"#/(?:\$defs|definitions)/", ref):
            raise UnsupportedArguments(tool, "$ref", pointer)
    return {**held, **definitions}


def _refs(schema: Any) -> list[str]:
    if isinstance(schema, Mapping):
        own = schema.get("$ref")
        found = [own] if isinstance(own, str) else []
        return found + [ref for sub in schema.values() for ref in _refs(sub)]
    if isinstance(schema, list):
        return [ref for sub in schema for ref in _refs(sub)]
    return []
