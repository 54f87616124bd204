"""The ledger: every keyword of JSON Schema, drafts 4 to 2020-12, and how formgate enforces it. The
compiler's decisions, the refusals, `POST /v1/schema/check` and docs/json-schema.md come from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from formgate.constrain.schema.dialect import Draft

ShapeTest = Callable[[Any], bool]


class How(StrEnum):
    MASK = "mask"  # the token mask enforces it directly
    REWRITE = "rewrite"  # rewritten, exactly, into keywords that the mask enforces
    GUARD = "guard"  # checked against the answer so far, token by token
    ANNOTATION = "annotation"  # the standard asserts nothing with it
    REFUSED = "refused"


class Shape(StrEnum):
    """The form of a keyword's value, worded for an error message."""

    SCHEMA = "a schema (an object or a boolean)"
    SCHEMAS = "a non-empty array of schemas"
    SCHEMA_MAP = "an object whose values are schemas"
    SCHEMA_OR_SCHEMAS = "a schema or an array of schemas"
    DEPENDENCIES = "an object whose values are schemas or arrays of strings"
    STRINGS_MAP = "an object whose values are arrays of strings"
    COUNT = "a non-negative integer"
    NUMBER = "a number"
    NUMBER_OR_BOOLEAN = "a number, or a boolean in draft 4"
    POSITIVE = "a number above 0"
    STRING = "a string"
    STRINGS = "an array of strings"
    BOOLEAN = "a boolean"
    TYPES = "one of the seven type names, or an array of them"
    VALUES = "a non-empty array"
    ANY = "anything"


@dataclass(frozen=True, slots=True)
class Keyword:
    name: str
    how: How
    shape: Shape
    note: str
    first: Draft = Draft.D4
    last: Draft = Draft.D2020


_M, _R, _G, _A, _X = How.MASK, How.REWRITE, How.GUARD, How.ANNOTATION, How.REFUSED
_S = Shape
_D = Draft

LEDGER: dict[str, Keyword] = {
    keyword.name: keyword
    for keyword in (
        Keyword("type", _M, _S.TYPES, "An integer is written without fraction or exponent."),
        Keyword("enum", _M, _S.VALUES, "Values in the schema's own key order."),
        Keyword("const", _M, _S.ANY, "As an `enum` of one value.", _D.D6),
        Keyword("properties", _M, _S.SCHEMA_MAP, "Members come in the order of the schema."),
        Keyword("required", _M, _S.STRINGS, "Undeclared names too."),
        Keyword("additionalProperties", _M, _S.SCHEMA, "After the declared members."),
        Keyword("patternProperties", _M, _S.SCHEMA_MAP, "Names by pattern, after the declared."),
        Keyword("propertyNames", _R, _S.SCHEMA, "Into the patterns of the names.", _D.D6),
        Keyword("minProperties", _R, _S.COUNT, "Counted; a guard keeps names different."),
        Keyword("maxProperties", _R, _S.COUNT, "Counted."),
        Keyword("dependencies", _R, _S.DEPENDENCIES, "As dependentRequired or dependentSchemas."),
        Keyword("dependentRequired", _R, _S.STRINGS_MAP, "A formula over names.", _D.D2019),
        Keyword("dependentSchemas", _R, _S.SCHEMA_MAP, "As an `if` on the member.", _D.D2019),
        Keyword(
            "unevaluatedProperties",
            _R,
            _S.SCHEMA,
            "As additionalProperties of each combination of branches beside it.",
            _D.D2019,
        ),
        Keyword("items", _M, _S.SCHEMA_OR_SCHEMAS, "An array of schemas as prefixItems."),
        Keyword("prefixItems", _M, _S.SCHEMAS, "Items by index.", _D.D2020),
        Keyword(
            "additionalItems", _M, _S.SCHEMA, "Items after the array `items`.", _D.D4, _D.D2019
        ),
        Keyword(
            "unevaluatedItems",
            _R,
            _S.SCHEMA,
            "As `items` of each combination of branches beside it.",
            _D.D2019,
        ),
        Keyword("minItems", _M, _S.COUNT, "Exact."),
        Keyword("maxItems", _M, _S.COUNT, "Exact."),
        Keyword("uniqueItems", _G, _S.BOOLEAN, "No token may complete an item a second time."),
        Keyword("contains", _R, _S.SCHEMA, "Matching items are counted.", _D.D6),
        Keyword("minContains", _R, _S.COUNT, "Counted; 0 asserts nothing.", _D.D2019),
        Keyword("maxContains", _R, _S.COUNT, "Counted; later items fail `contains`.", _D.D2019),
        Keyword("minLength", _M, _S.COUNT, "In code points."),
        Keyword("maxLength", _M, _S.COUNT, "In code points."),
        Keyword("pattern", _M, _S.STRING, "ECMA-262, unanchored; `\\d` and `\\w` are ASCII."),
        Keyword("format", _M, _S.STRING, "Formats of the standard; others are annotations."),
        Keyword("minimum", _M, _S.NUMBER, "As a decimal, exact."),
        Keyword("maximum", _M, _S.NUMBER, "As a decimal, exact."),
        Keyword("exclusiveMinimum", _M, _S.NUMBER_OR_BOOLEAN, "As a decimal, exact."),
        Keyword("exclusiveMaximum", _M, _S.NUMBER_OR_BOOLEAN, "As a decimal, exact."),
        Keyword(
            "multipleOf",
            _M,
            _S.POSITIVE,
            "Exact. Refused below `not`: list the allowed numbers instead.",
        ),
        Keyword("allOf", _R, _S.SCHEMAS, "Merged."),
        Keyword("anyOf", _M, _S.SCHEMAS, "Branches may overlap."),
        Keyword("oneOf", _R, _S.SCHEMAS, "Each branch minus the branches that overlap it."),
        Keyword("not", _R, _S.SCHEMA, "By De Morgan's laws, down to types and values."),
        Keyword("if", _R, _S.SCHEMA, "Both `if` and `then`, or `else` and not `if`.", _D.D7),
        Keyword("then", _R, _S.SCHEMA, "See `if`; ignored without it.", _D.D7),
        Keyword("else", _R, _S.SCHEMA, "See `if`; ignored without it.", _D.D7),
        Keyword("$ref", _M, _S.STRING, "Within the schema; may be recursive. Never fetched."),
        Keyword("$dynamicRef", _R, _S.STRING, "One rule for each target.", _D.D2020),
        Keyword("$recursiveRef", _R, _S.STRING, "One rule for each target.", _D.D2019, _D.D2019),
        Keyword("$defs", _M, _S.SCHEMA_MAP, "Targets of references.", _D.D2019),
        Keyword("definitions", _M, _S.SCHEMA_MAP, "Targets of references."),
        Keyword("$id", _M, _S.STRING, "Base of references.", _D.D6),
        Keyword("id", _M, _S.ANY, "Base of references.", _D.D4, _D.D4),
        Keyword("$anchor", _M, _S.STRING, "A name for references.", _D.D2019),
        Keyword("$dynamicAnchor", _M, _S.STRING, "A name for references.", _D.D2020),
        Keyword("$recursiveAnchor", _M, _S.BOOLEAN, "A name for references.", _D.D2019, _D.D2019),
        Keyword("$schema", _M, _S.STRING, "Selects the draft; the default is 2020-12."),
        Keyword("$vocabulary", _A, _S.ANY, "", _D.D2019),
        Keyword("$comment", _A, _S.ANY, "", _D.D7),
        Keyword("title", _A, _S.ANY, ""),
        Keyword("description", _A, _S.ANY, ""),
        Keyword("default", _A, _S.ANY, ""),
        Keyword("examples", _A, _S.ANY, "", _D.D6),
        Keyword("deprecated", _A, _S.ANY, "", _D.D2019),
        Keyword("readOnly", _A, _S.ANY, "", _D.D7),
        Keyword("writeOnly", _A, _S.ANY, "", _D.D7),
        Keyword("contentEncoding", _A, _S.ANY, "The standard asserts nothing.", _D.D7),
        Keyword("contentMediaType", _A, _S.ANY, "The standard asserts nothing.", _D.D7),
        Keyword("contentSchema", _A, _S.ANY, "The standard asserts nothing.", _D.D2019),
        Keyword("nullable", _A, _S.ANY, "OpenAPI 3.0. A request's `nullable: true` allows null."),
        Keyword("discriminator", _A, _S.ANY, "OpenAPI; `oneOf` needs none."),
        Keyword("extends", _X, _S.ANY, "Draft 3; write `allOf`."),
        Keyword("disallow", _X, _S.ANY, "Draft 3; write `not`."),
        Keyword("divisibleBy", _X, _S.ANY, "Draft 3; write `multipleOf`."),
    )
}

# Keywords whose value is a schema, a list of schemas, or a map to schemas.
IN_SCHEMA = frozenset(
    {
        *("additionalItems", "additionalProperties", "contains", "else", "if", "items", "not"),
        *("propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"),
    }
)
IN_LIST = frozenset({"allOf", "anyOf", "items", "oneOf", "prefixItems"})
IN_MAP = frozenset(
    {
        *("$defs", "definitions", "dependencies", "dependentSchemas"),
        *("patternProperties", "properties"),
    }
)

TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})


def is_integer(value: Any) -> bool:
    """JSON Schema's integers: 2.0 is one."""
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_strings(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_string, value))


def _are_values(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0


def _are_types(value: Any) -> bool:
    if isinstance(value, str):
        return value in TYPES
    return _are_values(value) and all(isinstance(name, str) and name in TYPES for name in value)


def _is_map(of: ShapeTest) -> ShapeTest:
    return lambda value: isinstance(value, dict) and all(map(of, value.values()))


# Tests whether a keyword's value has the form that the metaschemas require. Sub-schemas are not
# looked into.
SHAPE_TESTS: Mapping[Shape, ShapeTest] = {
    Shape.ANY: lambda _: True,
    Shape.STRING: _is_string,
    Shape.SCHEMA: _is_schema,
    Shape.SCHEMA_MAP: _is_map(_is_schema),
    Shape.SCHEMAS: lambda value: _are_values(value) and all(map(_is_schema, value)),
    Shape.SCHEMA_OR_SCHEMAS: lambda value: (
        _is_schema(value) or (isinstance(value, list) and all(map(_is_schema, value)))
    ),
    Shape.STRINGS: _are_strings,
    Shape.COUNT: lambda value: is_integer(value) and value >= 0,
    Shape.TYPES: _are_types,
    Shape.BOOLEAN: _is_boolean,
    Shape.NUMBER: _is_number,
    Shape.NUMBER_OR_BOOLEAN: lambda value: _is_boolean(value) or _is_number(value),
    Shape.POSITIVE: lambda value: _is_number(value) and value > 0,
    Shape.VALUES: _are_values,
    Shape.DEPENDENCIES: _is_map(lambda value: _is_schema(value) or _are_strings(value)),
    Shape.STRINGS_MAP: _is_map(_are_strings),
}


# Keywords that name a schema or hold definitions, and assert nothing.
_NAMES = frozenset(
    {
        *("$schema", "$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor"),
        *("$defs", "definitions"),
    }
)


def says_nothing_but(schema: Mapping[str, Any], keyword: str) -> bool:
    """True if no other keyword of the schema asserts anything."""
    return all(
        name == keyword
        or name in _NAMES
        or (entry := LEDGER.get(name)) is None
        or entry.how is How.ANNOTATION
        for name in schema
    )
