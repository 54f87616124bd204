"""Whether a JSON Schema can be enforced exactly. What cannot be is refused, with the keyword and
its JSON Pointer; nothing is ever enforced more weakly than it is written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
from jsonschema.protocols import Validator
from llguidance import LLMatcher, LLParserLimits

from formgate.constrain.errors import ConstraintError, pointer_of

# Keywords whose value is a schema, a list of schemas, or a mapping of names to schemas.
_SCHEMA_KEYWORDS = frozenset(
    {
        *("additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if"),
        *("items", "not", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"),
    }
)
_LIST_KEYWORDS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})
_MAP_KEYWORDS = frozenset(
    {
        *("$defs", "definitions", "dependentSchemas", "dependencies"),
        *("patternProperties", "properties"),
    }
)
_UNIMPLEMENTED = re.compile(r'Unimplemented keys: \["([^"]+)"')
_UNKNOWN_FORMAT = re.compile(r"Unknown format: (\S+)")

MAX_DEPTH = 100  # schemas inside schemas


def validator_class(schema: Any) -> type[Validator]:
    """By `$schema`; 2020-12 where there is none or an unknown one."""
    if not isinstance(schema, Mapping):
        return jsonschema.Draft202012Validator
    validator: type[Validator] = jsonschema.validators.validator_for(
        schema, default=jsonschema.Draft202012Validator
    )
    return validator


def check_schema(schema: Any, limits: LLParserLimits | None = None) -> None:
    """Raises ConstraintError if `schema` is no schema, or asks for what the mask cannot enforce."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise ConstraintError(
            f"A JSON Schema is an object or a boolean, not {_kind(schema)}.",
            code="invalid_schema",
        )
    for path, _ in _walk(schema, []):
        if len(path) > 2 * MAX_DEPTH:
            raise ConstraintError("The schema is nested too deeply.", code="schema_too_complex")
    _check_against_metaschema(schema)
    # The schema alone tells more than the whole grammar's error would.
    is_error, messages = LLMatcher.validate_grammar_with_warnings(
        LLMatcher.grammar_from_json_schema(
            json.dumps(schema), overrides={"lenient": False, "coerce_one_of": False}
        ),
        limits=limits,
    )
    if is_error:
        raise _refusal(schema, messages[0])


def _check_against_metaschema(schema: Mapping[str, Any]) -> None:
    validator = validator_class(schema)
    error = next(iter(validator(validator.META_SCHEMA).iter_errors(schema)), None)
    if error is None:
        return
    path = list(error.absolute_path)
    named = [part for part in path if isinstance(part, str)]
    raise ConstraintError(
        f"Not a valid JSON Schema: {_short(error.message)}",
        code="invalid_schema",
        pointer=pointer_of(path),
        keyword=named[-1] if named else None,
    )


def _refusal(schema: Mapping[str, Any], message: str) -> ConstraintError:
    """llguidance's message, with the place it speaks of."""
    keyword: str | None = None
    value: Any = None
    if found := _UNIMPLEMENTED.search(message):
        keyword = found[1]
    elif found := _UNKNOWN_FORMAT.search(message):
        keyword, value = "format", found[1]
    elif "oneOf" in message:
        keyword = "oneOf"
    elif "$ref" in message or "Resource" in message or "esolv" in message:
        keyword = "$ref"
    if keyword is None:
        complex_ = "too large" in message or "limit" in message or "fuel" in message
        return ConstraintError(
            f"The schema cannot be enforced: {_short(message)}",
            code="schema_too_complex" if complex_ else "unsupported_schema",
        )
    pointer = next(
        (
            pointer_of([*path, keyword])
            for path, sub in _walk(schema, [])
            if keyword in sub and (value is None or sub[keyword] == value)
        ),
        "",
    )
    what = f"{keyword!r}" if value is None else f"{keyword!r} {value!r}"
    return ConstraintError(
        f"The JSON Schema keyword {what} cannot be enforced here ({pointer or 'root'}).",
        code="unsupported_schema",
        pointer=pointer,
        keyword=keyword,
    )


def _walk(
    schema: Any, path: list[str | int]
) -> Iterator[tuple[list[str | int], Mapping[str, Any]]]:
    """Every schema inside `schema`, itself first, each with its path."""
    stack: list[tuple[list[str | int], Any]] = [(path, schema)]
    while stack:
        place, current = stack.pop()
        if not isinstance(current, Mapping):
            continue
        yield place, current
        for keyword, value in current.items():
            if keyword in _MAP_KEYWORDS and isinstance(value, Mapping):
                stack += [([*place, keyword, name], sub) for name, sub in value.items()]
            elif keyword in _LIST_KEYWORDS and isinstance(value, list):
                stack += [([*place, keyword, i], sub) for i, sub in enumerate(value)]
            elif keyword in _SCHEMA_KEYWORDS:
                stack.append(([*place, keyword], value))


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _short(message: str) -> str:
    message = " ".join(message.split())
    return message if len(message) <= 300 else message[:297] + "..."
