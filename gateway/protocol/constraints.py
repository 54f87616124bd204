"""The one constraint that a request may put on its content, whichever of the many names it came
under: `response_format`, `structured_outputs` or the older `guided_*`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from formgate.gateway.errors import bad_request
from formgate.gateway.protocol.fields import GenerationRequest

# Names of other servers and of future versions. Ignoring one would break a promise that the
# client believes in.
_CONSTRAINT_NAME = re.compile(
    r"guided_(?!decoding_backend).+|structured_.+|structural_tag|regex|ebnf|grammar|lark"
    r"|json_schema|json_object|response_(?:schema|json_schema|mime_type)|responseSchema"
    r"|output_(?:schema|format|config)|format|constraints?|choice"
)

ConstraintKind = Literal["json", "json_object", "regex", "choice", "grammar", "structural_tag"]


@dataclass(frozen=True)
class ContentConstraint:
    """`value` is a JSON Schema, a pattern, a list of strings, a grammar's text or a structural tag
    as it came; `param` names the field that it came in."""

    kind: ConstraintKind
    value: Any
    param: str
    whitespace_pattern: str | None = None
    whitespace_param: str = ""  # the field that it came in


def content_constraint(request: GenerationRequest) -> ContentConstraint | None:
    """Raises ApiError 400 for two constraints, or for one that formgate does not know."""
    _refuse_unknown(request)
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
    """The pattern, and the field that it came in."""
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


def _refuse_unknown(request: GenerationRequest) -> None:
    for name, value in (request.model_extra or {}).items():
        if value is not None and _CONSTRAINT_NAME.fullmatch(name):
            raise bad_request(
                f"The constraint '{name}' is not supported. Use 'response_format' or "
                "'structured_outputs'.",
                name,
                "unsupported_parameter",
            )
    outputs = request.structured_outputs
    if outputs is None:
        return
    tolerated = {"disable_any_whitespace", "disable_additional_properties", "disable_fallback"}
    for name, value in (outputs.model_extra or {}).items():
        if value is not None and name not in tolerated:
            param = f"structured_outputs.{name}"
            raise bad_request(
                f"The constraint '{param}' is not supported.", param, "unsupported_parameter"
            )


def _response_format(request: GenerationRequest) -> list[ContentConstraint]:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return []
    if wanted.type == "structural_tag":
        fields = wanted.model_dump(include={"type"}) | (wanted.model_extra or {})
        return [ContentConstraint("structural_tag", fields, "response_format")]
    if wanted.type == "json_object":
        return [ContentConstraint("json_object", None, "response_format")]
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
    """vLLM takes a schema as an object or as its text."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise bad_request(f"'{param}' is not valid JSON.", param, "invalid_schema") from error
        if not isinstance(schema, dict | bool):
            raise bad_request(f"'{param}' is not a JSON Schema.", param, "invalid_schema")
    return ContentConstraint("json", schema, param)


def _choice(values: list[str], param: str) -> ContentConstraint:
    if not values:
        raise bad_request(f"'{param}' is empty: nothing could be answered.", param)
    return ContentConstraint("choice", values, param)
