"""The parameters of a tool, for families that write arguments one by one instead of as a JSON
object. Keywords that relate several parameters cannot be enforced there and are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from formgate.parsers.formats.format import Tool, UnsupportedArguments
from formgate.parsers.tree.nodes import Node, Schema

_ENFORCED = frozenset(("type", "properties", "required", "additionalProperties"))
# Keywords that never constrain a value. They are dropped: a description is often most of a schema.
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
    schema: Schema  # self-contained: includes the definitions it refers to
    required: bool
    pointer: str
    value_node: Node | None = None  # grammar of the value, if there is one beside the schema


def parameters_of(tool: Tool, name_pattern: str) -> list[Parameter]:
    """The tool's parameters in the schema's order. Raises UnsupportedArguments for a keyword that
    cannot be enforced, and for a name that does not match `name_pattern`, the family's syntax.
    """
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
        alone = _self_contained(tool, sub, root, pointer)
        node = None if tool.input is None else tool.quoted_input()
        made.append(Parameter(name, alone, name in required, tool.pointer + pointer, node))
    return made


def is_text(schema: Any) -> bool:
    """True if the schema allows every string and nothing else."""
    return (
        isinstance(schema, Mapping)
        and schema.get("type") == "string"
        and not schema.keys() - _ANNOTATIONS - {"type"}
    )


def text_choices(schema: Any) -> list[str] | None:
    """The strings of an enum or const of strings only; None for any other schema."""
    if not isinstance(schema, Mapping) or schema.get("type", "string") != "string":
        return None
    if schema.keys() - _ANNOTATIONS - {"type", "enum", "const"}:
        return None
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list) or not values:
        return None
    return values if all(isinstance(value, str) for value in values) else None


def branches(schema: Any) -> list[Any]:
    """The alternatives of a schema that consists of an `anyOf` or of a list of types only."""
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
    """True if the schema allows every string, null, and nothing else."""
    alternatives = branches(schema)
    return len(alternatives) > 1 and all(is_text(each) or _is_null(each) for each in alternatives)


def _is_null(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") == "null"


def _definition(root: dict[str, Any], ref: str, name: str) -> dict[str, Any]:
    place = "$defs" if ref.startswith("#/$defs/") else "definitions"
    found = root.get(place, {}).get(name.replace("~1", "/").replace("~0", "~"))
    return found if isinstance(found, dict) else {}


def _self_contained(tool: Tool, schema: Any, root: dict[str, Any], pointer: str) -> Schema:
    """`schema` with the root's definitions it refers to, and without remarks."""
    if not isinstance(schema, dict):
        return bool(schema)
    kept = {key: value for key, value in schema.items() if key not in _REMARKS}
    refs = list(_refs(kept))
    definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
    if not refs:
        return kept
    for ref in (*refs, *_refs(definitions)):
        # A reference to the root or to a sibling has another target outside its context.
        if not re.match(r"#/(?:\$defs|definitions)/", ref):
            raise UnsupportedArguments(tool, "$ref", pointer)
    return {**kept, **definitions}


def _refs(schema: Any) -> list[str]:
    if isinstance(schema, Mapping):
        own = schema.get("$ref")
        found = [own] if isinstance(own, str) else []
        return found + [ref for sub in schema.values() for ref in _refs(sub)]
    if isinstance(schema, list):
        return [ref for sub in schema for ref in _refs(sub)]
    return []
