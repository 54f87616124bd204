"""A constraint on an answer's content, whatever field of a request it stands in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic_core import from_json

from formgate.gateway.errors import bad_request
from formgate.gateway.protocol.nullable import offering_null

ConstraintKind = Literal["json", "json_object", "regex", "choice", "grammar", "structural_tag"]


@dataclass(frozen=True)
class ContentConstraint:
    """`value` is a JSON Schema, a pattern, a list of strings, a grammar's text or a structural tag;
    `param` names its field in the request."""

    kind: ConstraintKind
    value: Any
    param: str
    whitespace_pattern: str | None = None
    whitespace_param: str = ""  # the pattern's field in the request


def json_constraint(schema: object, param: str) -> ContentConstraint:
    """A schema as an object or, as vLLM allows, as text."""
    if isinstance(schema, str):
        try:
            schema = from_json(schema)
        except ValueError as error:  # also if nested too deeply
            raise bad_request(f"'{param}' is not valid JSON.", param, "invalid_schema") from error
        if not isinstance(schema, dict | bool):
            raise bad_request(f"'{param}' is not a JSON Schema.", param, "invalid_schema")
    return ContentConstraint("json", offering_null(schema), param)


def choice_constraint(values: list[str], param: str) -> ContentConstraint:
    if not values:
        raise bad_request(f"'{param}' is empty: nothing could be answered.", param)
    return ContentConstraint("choice", values, param)
