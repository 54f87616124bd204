"""Validates a finished answer against its JSON Schema or regex. The engine is independent of the
masks: `jsonschema-rs`, whose regexes count their steps. References that double at each level are
exponential in any validator, so the check runs in a process with a limit on CPU time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal, get_args

import jsonschema_rs

from formgate.constrain.algebra.scalars import text_matches
from formgate.constrain.errors import pointer_of
from formgate.constrain.regex.ecma_regex import PATTERN_OPTIONS, found, gave_up, rust_regex
from formgate.constrain.regex.request_regexes import regex_term
from formgate.constrain.schema.dialect import Draft, draft_of

_MOST_SHOWN = 200  # characters of a pointer

# Why an answer was not checked: no second engine reads its grammar; the validator cannot read the
# schema or the answer, or gave up on a pattern; the checking process was killed for its CPU time,
# or died; too many answers were waiting.
UncheckedReason = Literal["grammar", "schema", "answer", "pattern", "time", "process", "busy"]
UNCHECKED_REASONS: tuple[UncheckedReason, ...] = get_args(UncheckedReason)


class Unchecked(Exception):
    """The answer could not be checked. It may well be valid."""

    def __init__(self, reason: UncheckedReason) -> None:
        super().__init__(reason)
        self.reason: UncheckedReason = reason


class AnswerCheck:
    """One compiled JSON Schema. Raises Unchecked if the validator cannot read it."""

    def __init__(self, schema_text: str) -> None:
        try:
            schema = json.loads(schema_text, parse_float=Decimal)
            self._validator = _VALIDATORS[draft_of(schema)](
                _with_patterns(schema),
                validate_formats=True,
                pattern_options=PATTERN_OPTIONS,
                keywords=_ANNOTATIONS,
                offline=True,
            )
        except (ValueError, RecursionError):
            raise Unchecked("schema") from None

    def failure(self, text: str) -> str | None:
        """Return the first fault of a JSON text without quoting the text, or None. Raises
        Unchecked.
        """
        try:
            value = json.loads(text, parse_float=Decimal)
        except json.JSONDecodeError as error:
            return f"not JSON: {error.msg}"
        except (ValueError, RecursionError):  # a number too long, or nesting too deep
            raise Unchecked("answer") from None
        try:
            wrong = next(self._validator.iter_errors(value), None)
        except ValueError:  # for example a lone surrogate
            raise Unchecked("answer") from None
        if wrong is None:
            return None
        if gave_up(wrong):
            raise Unchecked("pattern")
        # The path holds names that a client chose; escaped, they cannot add a line to a log.
        return f"the keyword at {ascii(pointer_of(wrong.schema_path))[:_MOST_SHOWN]}"


def regex_failure(pattern: str, text: str) -> str | None:
    """Return an error if an ECMA-262 regex does not match the whole text, or None. Raises Unchecked
    if the engine gives up, or if the masks' own engine matches the text.
    """
    matches = found(f"^(?:{pattern})$", text)
    if matches:
        return None
    if matches is None or text_matches(regex_term(pattern).text, text):
        raise Unchecked("pattern")
    return "the pattern does not match"


class _Annotation:
    """A keyword that the standard makes an annotation, without power over an instance."""

    def __init__(self, parent_schema: dict[str, Any], value: Any, schema_path: list[Any]) -> None:
        pass

    def validate(self, instance: Any) -> None:
        pass


_VALIDATORS: Mapping[Draft, type[jsonschema_rs.Validator]] = {
    Draft.D4: jsonschema_rs.Draft4Validator,
    Draft.D6: jsonschema_rs.Draft6Validator,
    Draft.D7: jsonschema_rs.Draft7Validator,
    Draft.D2019: jsonschema_rs.Draft201909Validator,
    Draft.D2020: jsonschema_rs.Draft202012Validator,
}
_ANNOTATIONS: dict[str, type[Any]] = {
    "contentEncoding": _Annotation,
    "contentMediaType": _Annotation,
}

_VALUES = frozenset({"const", "enum", "default", "examples"})
_MAPS = frozenset(
    {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"}
)


def _with_patterns(schema: Any) -> Any:
    """The schema with each ECMA-262 pattern translated for `jsonschema-rs`."""
    if isinstance(schema, list):
        return [_with_patterns(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword == "pattern" and isinstance(value, str):
            made[keyword] = rust_regex(value)
        elif keyword in _MAPS and isinstance(value, dict):
            named = keyword != "patternProperties"
            made[keyword] = {
                name if named else rust_regex(name): _with_patterns(part)
                for name, part in value.items()
            }
        else:
            made[keyword] = value if keyword in _VALUES else _with_patterns(value)
    return made
