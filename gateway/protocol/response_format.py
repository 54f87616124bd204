"""Reads `response_format`: OpenAI's types, and those of vLLM, TGI, Fireworks and Together."""

from __future__ import annotations

from typing import Any

from formgate.gateway.errors import bad_request
from formgate.gateway.protocol.content_constraint import ContentConstraint, json_constraint
from formgate.gateway.protocol.fields import ResponseFormat

_AT = "response_format"
# By type: the fields that may hold its constraint. `value` is TGI's, `pattern` Together's.
_HOLDERS = {
    "text": (),
    "json_object": ("schema", "value"),
    "json_schema": ("json_schema", "schema", "value"),
    "json": ("schema", "value"),
    "regex": ("value", "pattern"),
    "grammar": ("grammar",),
    "structural_tag": (),
}
_TYPE_OF = {
    "json_schema": "json_schema",
    "schema": "json_object",
    "value": "json",
    "pattern": "regex",
    "grammar": "grammar",
}


def format_constraint(wanted: ResponseFormat | None) -> ContentConstraint | None:
    """The constraint, or None for text. Raises ApiError 400 for a field that the type does not
    read, for two of them, or for none where one is needed."""
    if wanted is None:
        return None
    given: dict[str, Any] = {
        name: value
        for name, value in (
            ("json_schema", wanted.json_schema),
            ("schema", wanted.bare_schema),
            ("value", wanted.value),
            ("pattern", wanted.pattern),
            ("grammar", wanted.grammar),
        )
        if value is not None
    }
    for i, name in enumerate(given):
        if name not in _HOLDERS[wanted.type] or i > 0:
            raise bad_request(
                f"'{_AT}.{name}' needs a format of type \"{_TYPE_OF[name]}\", and no other schema.",
                f"{_AT}.{name}",
            )
    name, value = next(iter(given.items()), ("", None))
    match wanted.type:
        case "text":
            return None
        case "structural_tag":
            fields = wanted.model_dump(include={"type"}) | (wanted.model_extra or {})
            return ContentConstraint("structural_tag", fields, _AT)
        case "json_object" if value in (None, True, {}):
            return ContentConstraint("json_object", None, _AT)
        case "json_object" | "json" | "json_schema":
            return _json(wanted, name, value)
        case kind:
            if not isinstance(value, str):
                raise _missing(f"{_AT}.{name or _HOLDERS[kind][0]}")
            return ContentConstraint(kind, value, f"{_AT}.{name}")


def _json(wanted: ResponseFormat, name: str, value: Any) -> ContentConstraint:
    if not name:
        raise _missing(f"{_AT}.{_HOLDERS[wanted.type][-1 if wanted.type == 'json' else 0]}")
    if wanted.json_schema is not None:
        if wanted.json_schema.bare_schema is not None:
            return json_constraint(wanted.json_schema.bare_schema, f"{_AT}.json_schema")
        param = f"{_AT}.json_schema.schema"
        if "json_schema" not in wanted.json_schema.model_fields_set:
            raise _missing(param)
        schema = wanted.json_schema.json_schema
        return json_constraint({} if schema is None else schema, param)
    param = f"{_AT}.{name}"
    if name == "value" and wanted.type == "json_schema" and isinstance(value, dict):
        # TGI wraps the schema as OpenAI does, with its name.
        inner = value.get("schema")
        if "name" in value and isinstance(inner, dict | bool):
            return json_constraint(inner, f"{param}.schema")
    if not isinstance(value, dict | bool | str):
        raise bad_request(f"'{param}' is not a JSON Schema.", param, "invalid_schema")
    return json_constraint(value, param)


def _missing(param: str) -> Exception:
    return bad_request(
        f"Missing required parameter: '{param}'.", param, "missing_required_parameter"
    )
