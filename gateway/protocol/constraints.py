"""The one constraint that a request may put on its content: in `response_format`,
`structured_outputs`, an older `guided_*` field, or a field of another server's API.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from formgate.gateway.errors import bad_request
from formgate.gateway.protocol.content_constraint import (
    ContentConstraint,
    choice_constraint,
    json_constraint,
)
from formgate.gateway.protocol.fields import (
    Body,
    GenerationRequest,
    JsonSchemaFormat,
    ResponseFormat,
    StructuredOutputs,
)
from formgate.gateway.protocol.response_format import format_constraint

_TOLERATED = {  # of `structured_outputs`: vLLM's switches of its own backends
    "disable_any_whitespace",
    "disable_additional_properties",
    "disable_fallback",
}
# The model's input and the request's metadata: their field names are data, not constraints.
_DATA = frozenset({"messages", "input", "system", "documents", "metadata"})
# Where other libraries and servers keep the fields that stand at the top level here.
_WRAPPERS = frozenset({"extra_body", "options", "sampling_params"})
_FUNCTIONS = (None, "function", "custom", "namespace")  # the model does not call other tools


def content_constraint(request: GenerationRequest) -> ContentConstraint | None:
    """The request's constraint, or None. Raises ApiError 400 for two, or for an unknown one."""
    refuse_unknown_constraints(request)
    found = [
        *([] if (wanted := format_constraint(request.response_format)) is None else [wanted]),
        *_structured_outputs(request),
        *_guided(request),
        *_other_servers(request),
    ]
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
        hint = ""
        if path == unknown:
            hint = " Use 'response_format' or 'structured_outputs'."
        elif path.partition(".")[0] in _WRAPPERS:
            hint = " Constraints stand at the top level of a body."
        raise bad_request(
            f"The constraint '{path}' is not supported.{hint}", path, "unsupported_parameter"
        )


def _unknown_constraints(body: Body, at: str) -> Iterator[tuple[str, str]]:
    """(path, name) of each unknown field that looks like a constraint."""
    is_tag = isinstance(body, ResponseFormat) and body.type == "structural_tag"
    is_schema = isinstance(body, JsonSchemaFormat) and body.bare_schema is not None
    for name, value in (body.model_extra or {}).items():
        if value is None or is_tag or is_schema:
            continue
        if not at and name in _WRAPPERS and isinstance(value, dict):
            yield from _wrapped_constraints(body, value, name)
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


def _wrapped_constraints(body: Body, wrapped: dict[str, Any], at: str) -> Iterator[tuple[str, str]]:
    for inner, value in wrapped.items():
        if body.constraint_names.fullmatch(inner) and value is not None:
            yield f"{at}.{inner}", inner
        elif inner in _WRAPPERS and isinstance(value, dict):
            yield from _wrapped_constraints(body, value, f"{at}.{inner}")


def _structured_outputs(request: GenerationRequest) -> list[ContentConstraint]:
    outputs = request.structured_outputs
    if outputs is None:
        return []
    at = "structured_outputs"
    found: list[ContentConstraint] = []
    if outputs.json_schema is not None:
        found.append(json_constraint(outputs.json_schema, f"{at}.json"))
    if outputs.json_object:
        found.append(ContentConstraint("json_object", None, f"{at}.json_object"))
    if outputs.regex is not None:
        found.append(ContentConstraint("regex", outputs.regex, f"{at}.regex"))
    if outputs.choice is not None:
        found.append(choice_constraint(outputs.choice, f"{at}.choice"))
    if outputs.grammar is not None:
        found.append(ContentConstraint("grammar", outputs.grammar, f"{at}.grammar"))
    if outputs.structural_tag is not None:
        tag = ContentConstraint("structural_tag", outputs.structural_tag, f"{at}.structural_tag")
        found.append(tag)
    return found


def _guided(request: GenerationRequest) -> list[ContentConstraint]:
    found: list[ContentConstraint] = []
    if request.guided_json is not None:
        found.append(json_constraint(request.guided_json, "guided_json"))
    if request.guided_regex is not None:
        found.append(ContentConstraint("regex", request.guided_regex, "guided_regex"))
    if request.guided_choice is not None:
        found.append(choice_constraint(request.guided_choice, "guided_choice"))
    if request.guided_grammar is not None:
        found.append(ContentConstraint("grammar", request.guided_grammar, "guided_grammar"))
    return found


def _other_servers(request: GenerationRequest) -> list[ContentConstraint]:
    """The fields of llama.cpp, SGLang and Ollama. Their clients send empty texts for no constraint,
    except in `regex`."""
    found: list[ContentConstraint] = []
    if request.json_schema not in (None, ""):
        found.append(json_constraint(request.json_schema, "json_schema"))
    if request.regex is not None:
        found.append(ContentConstraint("regex", request.regex, "regex"))
    for param, grammar in (("grammar", request.grammar), ("ebnf", request.ebnf)):
        if grammar:
            found.append(ContentConstraint("grammar", grammar, param))
    if request.structural_tag not in (None, ""):
        found.append(ContentConstraint("structural_tag", request.structural_tag, "structural_tag"))
    if request.format == "json":
        found.append(ContentConstraint("json_object", None, "format"))
    elif request.format not in (None, ""):
        found.append(json_constraint(request.format, "format"))
    return found
