"""The one constraint that a request may put on its content, in `response_format`,
`structured_outputs` or an older `guided_*` field.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic_core import from_json

from formgate.gateway.errors import ApiError, bad_request
from formgate.gateway.protocol.fields import (
    Body,
    GenerationRequest,
    ResponseFormat,
    StructuredOutputs,
)

_TOLERATED = {  # of `structured_outputs`: vLLM's switches of its own backends
    "disable_any_whitespace",
    "disable_additional_properties",
    "disable_fallback",
}
# The model's input and the request's metadata: their field names are data, not constraints.
_DATA = frozenset({"messages", "input", "system", "documents", "metadata"})
_FUNCTIONS = (None, "function", "custom", "namespace")  # the model does not call other tools

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


def content_constraint(request: GenerationRequest) -> ContentConstraint | None:
    """The request's constraint, or None. Raises ApiError 400 for two, or for an unknown one."""
    refuse_unknown_constraints(request)
    found = [*_response_format(request), *_structured_outputs(request), *_guided(request)]
    if len(found) > 1:
        names = f"'{found[0].param}' and '{found[1].param}'"
        raise bad_request(
            f"Only one constraint on the answer is allowed, not both {names}.", found[1].param
        )
    if (white := _whitespace(request)) is None:
        return found[0] if found else None
    pattern, param = white
    if not found or found[0].kind not in ("json", "json_object"):
        raise bad_request(f"'{param}' needs a JSON constraint.", param)
    return replace(found[0], whitespace_pattern=pattern, whitespace_param=param)


def _whitespace(request: GenerationRequest) -> tuple[str, str] | None:
    """The pattern and its field in the request."""
    outputs = request.structured_outputs
    newer = None if outputs is None else outputs.whitespace_pattern
    older = request.guided_whitespace_pattern
    if newer is None:
        return None if older is None else (older, "guided_whitespace_pattern")
    if older is not None:
        raise bad_request(
            "Only one pattern of white space is allowed, not both "
            "'structured_outputs.whitespace_pattern' and 'guided_whitespace_pattern'.",
            "guided_whitespace_pattern",
        )
    return newer, "structured_outputs.whitespace_pattern"


def refuse_unknown_constraints(request: Body, *, nested_only: bool = False) -> None:
    """Raises ApiError 400 for an unknown field that looks like a constraint. `nested_only` skips
    the fields at the top level, which another model reads."""
    for path, unknown in _unknown_constraints(request, ""):
        if nested_only and path == unknown:
            continue
        hint = " Use 'response_format' or 'structured_outputs'." if path == unknown else ""
        raise bad_request(
            f"The constraint '{path}' is not supported.{hint}", path, "unsupported_parameter"
        )


def _unknown_constraints(body: Body, at: str) -> Iterator[tuple[str, str]]:
    """(path, name) of each unknown field that looks like a constraint."""
    is_tag = isinstance(body, ResponseFormat) and body.type == "structural_tag"
    for name, value in (body.model_extra or {}).items():
        if value is None or is_tag:
            continue
        if isinstance(body, StructuredOutputs):
            refused = name not in _TOLERATED
        else:
            refused = body.constraint_names.fullmatch(name) is not None
        if refused:
            yield f"{at}.{name}" if at else name, name
    for name, field in type(body).model_fields.items():
        if name in _DATA:
            continue
        here = f"{at}.{field.alias or name}" if at else field.alias or name
        value = getattr(body, name)
        if isinstance(value, Body):
            yield from _unknown_constraints(value, here)
        elif isinstance(value, list):
            for i, item in enumerate(value):
                if not isinstance(item, Body):
                    break
                if name != "tools" or getattr(item, "type", None) in _FUNCTIONS:
                    yield from _unknown_constraints(item, f"{here}[{i}]")


def _response_format(request: GenerationRequest) -> list[ContentConstraint]:
    wanted = request.response_format
    if wanted is None:
        return []
    if wanted.json_schema is not None and wanted.type != "json_schema":
        raise _misplaced("json_schema", "json_schema")
    if wanted.bare_schema is not None and (
        wanted.type not in ("json_object", "json_schema") or wanted.json_schema is not None
    ):
        raise _misplaced("schema", "json_object")
    if wanted.type == "text":
        return []
    if wanted.type == "structural_tag":
        fields = wanted.model_dump(include={"type"}) | (wanted.model_extra or {})
        return [ContentConstraint("structural_tag", fields, "response_format")]
    if wanted.type == "json_object" and wanted.bare_schema in (None, True, {}):
        return [ContentConstraint("json_object", None, "response_format")]
    if wanted.bare_schema is not None:
        return [_json(wanted.bare_schema, "response_format.schema")]
    if wanted.json_schema is None:
        raise bad_request(
            "Missing required parameter: 'response_format.json_schema'.",
            "response_format.json_schema",
            "missing_required_parameter",
        )
    param = "response_format.json_schema.schema"
    if "json_schema" not in wanted.json_schema.model_fields_set:
        raise bad_request(
            f"Missing required parameter: '{param}'.", param, "missing_required_parameter"
        )
    schema = wanted.json_schema.json_schema
    return [_json({} if schema is None else schema, param)]


def _structured_outputs(request: GenerationRequest) -> list[ContentConstraint]:
    outputs = request.structured_outputs
    if outputs is None:
        return []
    at = "structured_outputs"
    found: list[ContentConstraint] = []
    if outputs.json_schema is not None:
        found.append(_json(outputs.json_schema, f"{at}.json"))
    if outputs.json_object:
        found.append(ContentConstraint("json_object", None, f"{at}.json_object"))
    if outputs.regex is not None:
        found.append(ContentConstraint("regex", outputs.regex, f"{at}.regex"))
    if outputs.choice is not None:
        found.append(_choice(outputs.choice, f"{at}.choice"))
    if outputs.grammar is not None:
        found.append(ContentConstraint("grammar", outputs.grammar, f"{at}.grammar"))
    if outputs.structural_tag is not None:
        tag = ContentConstraint("structural_tag", outputs.structural_tag, f"{at}.structural_tag")
        found.append(tag)
    return found


def _guided(request: GenerationRequest) -> list[ContentConstraint]:
    found: list[ContentConstraint] = []
    if request.guided_json is not None:
        found.append(_json(request.guided_json, "guided_json"))
    if request.guided_regex is not None:
        found.append(ContentConstraint("regex", request.guided_regex, "guided_regex"))
    if request.guided_choice is not None:
        found.append(_choice(request.guided_choice, "guided_choice"))
    if request.guided_grammar is not None:
        found.append(ContentConstraint("grammar", request.guided_grammar, "guided_grammar"))
    return found


def _json(schema: object, param: str) -> ContentConstraint:
    """A schema as an object or, as vLLM allows, as text."""
    if isinstance(schema, str):
        try:
            schema = from_json(schema)
        except ValueError as error:  # also if nested too deeply
            raise bad_request(f"'{param}' is not valid JSON.", param, "invalid_schema") from error
        if not isinstance(schema, dict | bool):
            raise bad_request(f"'{param}' is not a JSON Schema.", param, "invalid_schema")
    return ContentConstraint("json", schema, param)


def _misplaced(name: str, kind: str) -> ApiError:
    param = f"response_format.{name}"
    return bad_request(f"'{param}' needs a format of type \"{kind}\", and no other schema.", param)


def _choice(values: list[str], param: str) -> ContentConstraint:
    if not values:
        raise bad_request(f"'{param}' is empty: nothing could be answered.", param)
    return ContentConstraint("choice", values, param)
