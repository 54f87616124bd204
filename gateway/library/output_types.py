"""Output types of the Python API (an Outlines term, a Python type, a JSON Schema): each becomes a
request's constraint, and parses the answer's text to a value. Outlines reads its own terms and
pydantic reads types; nothing here knows models or tokens.
"""

from __future__ import annotations

import datetime
import enum
import inspect
import json
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from outlines.types.dsl import CFG, Choice, JsonSchema, Regex, String, Term, to_regex
from outlines.types.utils import is_genson_schema_builder
from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, JsonSchemaWarningKind
from pydantic_core import core_schema

_INSTEAD = (
    "Use a Pydantic model, a dataclass, a TypedDict, Literal, an Enum, a builtin such as int or "
    "list[str], a union of these, a JSON Schema dict, or a type of outlines.types "
    "(Regex, Choice, JsonSchema, CFG, email, ...)"
)

# Exactly the days of the Gregorian calendar: `date` cannot hold 30 February.
_LEAP_YEAR = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DATE = (
    r"(?:(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)-"
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    rf"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_PATTERNS: Mapping[object, str] = {
    datetime.date: _DATE,
    datetime.time: _TIME,
    datetime.datetime: f"{_DATE}T{_TIME}",
}


@dataclass(frozen=True)
class OutputType:
    """`constraint` is the value of a request's `structured_outputs`; None allows any text.

    `parse` turns a complete answer into a value. It raises ValueError if the type's own validators
    refuse the text: they may check more than a schema expresses.
    """

    constraint: Mapping[str, Any] | None
    parse: Callable[[str], Any]


def output_type_of(kind: Any) -> OutputType:
    """The output type for `kind`. Raises TypeError, which names alternatives, for any other object.

    Text-like types are answered as bare text: a Literal or Enum as one of its values, a date in ISO
    8601, a regex as a match. All others are answered as JSON.
    """
    if kind is None or kind is str:
        return OutputType(None, str)
    if isinstance(kind, Term):
        return _of_term(kind)
    if isinstance(kind, Mapping):
        return OutputType({"json": dict(kind)}, json.loads)
    if is_genson_schema_builder(kind):
        return OutputType({"json": kind.to_schema()}, json.loads)
    if inspect.isfunction(kind) or inspect.ismethod(kind):
        # The arguments for `function(**value)`; pydantic's own parsing would call the function.
        return OutputType({"json": parameters_of(kind)}, json.loads)
    if get_origin(kind) is Literal:
        return _of_values(((value, value) for value in get_args(kind)), kind)
    if isinstance(kind, enum.EnumMeta):
        members: Iterable[Any] = kind
        return _of_values(((member.value, member) for member in members), kind)
    if isinstance(kind, type) and kind in _PATTERNS:
        return OutputType({"regex": _PATTERNS[kind]}, TypeAdapter(kind).validate_python)
    if isinstance(kind, type) or get_origin(kind) is not None or _is_special_form(kind):
        return _of_type(kind)
    raise TypeError(f"{_shown(kind)} is a value, not a type of an answer. {_INSTEAD}.")


def parameters_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The JSON Schema of a function's arguments, from its annotations. Raises TypeError."""
    schema = _schema(_adapter(function), function)
    if schema.get("type") != "object":
        raise TypeError(f"{_shown(function)} takes arguments that have no names.")
    return schema


def _of_term(term: Term) -> OutputType:
    match term:
        case JsonSchema():
            constraint: dict[str, Any] = {"json": json.loads(term.schema)}
            if term.whitespace_pattern is not None:
                constraint["whitespace_pattern"] = term.whitespace_pattern
            return OutputType(constraint, json.loads)
        case CFG():
            return OutputType({"grammar": term.definition}, str)
        case Choice():
            return _of_values(((item, item) for item in term.items), term)
        case String():
            return OutputType({"choice": [term.value]}, str)
        case Regex():
            return OutputType({"regex": term.pattern}, str)
    for part in _parts(term):
        if isinstance(part, JsonSchema | CFG):
            # Outlines would flatten a schema to a regex that allows more than the schema does.
            raise TypeError(
                f"{type(part).__name__} cannot be a part of another term. Use it by itself, or a "
                "union of types, or one JSON Schema with 'anyOf'."
            )
    return OutputType({"regex": to_regex(term)}, str)


def _parts(term: Term) -> Iterable[Term]:
    """The terms nested in `term`, at any depth."""
    for inner in (getattr(term, "term", None), *getattr(term, "terms", ())):
        if isinstance(inner, Term):
            yield inner
            yield from _parts(inner)


def _of_values(pairs: Iterable[tuple[Any, Any]], kind: Any) -> OutputType:
    """A choice between values. `pairs` holds (written value, Python value)."""
    written: dict[str, Any] = {}
    count = 0
    for value, meaning in pairs:
        count += 1
        if isinstance(value, enum.Enum):  # of a Literal
            value = value.value
        if isinstance(value, str):
            written[value] = meaning
        elif value is None or isinstance(value, bool | int | float):
            written[json.dumps(value)] = meaning
        else:
            raise TypeError(
                f"{_shown(kind)} holds {_shown(value)}, which is neither text nor a number. "
                "Use a union of types instead."
            )
    if len(written) < count:
        raise TypeError(f"{_shown(kind)} has two values that are written alike.")
    return OutputType({"choice": list(written)}, written.__getitem__)


def _of_type(kind: Any) -> OutputType:
    adapter = _adapter(kind)
    return OutputType({"json": _schema(adapter, kind)}, adapter.validate_json)


def _adapter(kind: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(kind)
    except PydanticUserError as error:
        raise _unsupported(kind, error) from error


def _schema(adapter: TypeAdapter[Any], kind: Any) -> dict[str, Any]:
    try:
        return adapter.json_schema(schema_generator=_AnswerSchema)
    except (PydanticUserError, TypeError) as error:
        raise _unsupported(kind, error) from error


class _AnswerSchema(GenerateJsonSchema):
    """Pydantic's schema of a type with `additionalProperties: false` where pydantic leaves objects
    open: an answer has only the fields of the type."""

    ignored_warning_kinds: set[JsonSchemaWarningKind] = {  # noqa: RUF012 - pydantic's declaration
        "skipped-choice",
        "non-serializable-default",
    }

    def generate_inner(self, schema: Any) -> JsonSchemaValue:
        shown = super().generate_inner(schema)
        for function in schema.get("metadata", {}).get("pydantic_js_functions", ()):
            term = getattr(function, "__self__", None)
            if isinstance(term, JsonSchema):
                raise TypeError("JsonSchema cannot be a field. Use a type")
            if isinstance(term, Term):
                # An Outlines regex matches the whole text, JSON Schema's `pattern` any part.
                return {**shown, "pattern": f"^(?:{shown['pattern']})$"}
        return shown

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        return _closed(super().model_schema(schema))

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        return _closed(super().dataclass_schema(schema))

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> JsonSchemaValue:
        return _closed(super().typed_dict_schema(schema))

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        """Uses `anyOf` for `oneOf`: the tag already makes the members exclusive."""
        shown = super().tagged_union_schema(schema)
        if "discriminator" in shown and "oneOf" in shown:
            del shown["discriminator"]
            shown["anyOf"] = shown.pop("oneOf")
        return shown


def _closed(schema: JsonSchemaValue) -> JsonSchemaValue:
    if schema.get("type") == "object" and "properties" in schema:
        schema.setdefault("additionalProperties", False)
    return schema


def _is_special_form(kind: Any) -> bool:
    """True for a type that is no class: Any, a union written with `|`, a NewType."""
    return kind is Any or isinstance(kind, types.UnionType) or hasattr(kind, "__supertype__")


def _unsupported(kind: Any, error: Exception) -> TypeError:
    reason = str(getattr(error, "message", error)).splitlines()[0].rstrip(".")
    return TypeError(f"{_shown(kind)} cannot be the type of an answer: {reason}. {_INSTEAD}.")


def _shown(kind: Any) -> str:
    text = getattr(kind, "__name__", None) or repr(kind)
    return text if len(text) <= 80 else text[:77] + "..."
