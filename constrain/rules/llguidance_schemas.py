"""Rewrites schemas that llguidance's own JSON compiler enforces exactly: to one draft, with local
references, and with formats and regexes as anchored patterns. It is much faster than the algebra,
and used wherever it is exact.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from decimal import Decimal
from typing import Any

from formgate.constrain.algebra.algebra import Algebra
from formgate.constrain.algebra.scalar_terms import MAX_STEP, may_contradict, string_token
from formgate.constrain.algebra.scalars import Strings
from formgate.constrain.grammar.shortest import token_text
from formgate.constrain.regex.formats import FORMATS
from formgate.constrain.regex.regex_terms import native_regex
from formgate.constrain.regex.regex_tree import RegexError
from formgate.constrain.rules.open_names import names_never_run_out
from formgate.constrain.schema.dialect import Draft
from formgate.constrain.schema.resources import Resources, SchemaNode

_AS_THEY_ARE = frozenset(
    {
        *("type", "enum", "const", "required", "minimum", "maximum", "multipleOf"),
        *("minItems", "maxItems", "minLength", "maxLength"),
    }
)
# Keywords that only the algebra enforces.
_NOT_HERE = frozenset(
    {
        *("$dynamicRef", "$recursiveRef", "contains", "dependencies", "dependentRequired"),
        *("dependentSchemas", "if", "maxProperties", "minProperties", "not", "propertyNames"),
        *("unevaluatedItems", "unevaluatedProperties"),
    }
)
_REWRITTEN = frozenset(
    {
        *("properties", "patternProperties", "additionalProperties"),
        *("$ref", "anyOf", "allOf", "oneOf"),
    }
)
_OF_STRINGS = frozenset(("minLength", "maxLength", "minItems", "maxItems", "pattern", "format"))
_OF_NUMBERS = frozenset(("multipleOf", "exclusiveMinimum", "exclusiveMaximum"))
_OF_ITEMS = frozenset(("items", "prefixItems"))
_SELDOM = _NOT_HERE | _OF_STRINGS | _OF_NUMBERS | _OF_ITEMS

# llguidance compiles a pattern at each place, so a schema of strings with a pattern of this many
# characters becomes a shared definition.
_LONG = 60
_STRING_ALONE = frozenset(("type", "pattern", "minLength", "maxLength"))


class _NotNative(Exception):
    pass


class NativeSchemas:
    """The sub-schemas of a document, each rewritten on its own."""

    def __init__(self, resources: Resources, draft: Draft, algebra: Algebra) -> None:
        self._resources = resources
        self._ref_alone = draft.ref_hides_siblings
        self._algebra = algebra
        self._names: dict[SchemaNode, str] = {}  # definitions of the targets of references
        self._known: dict[SchemaNode, Any] = {}  # None for a schema that is not native
        self._references: dict[
            SchemaNode, list[SchemaNode]
        ] = {}  # targets, of each schema and its parts
        self._gathered: dict[SchemaNode, None] = {}  # targets, of the schema being rewritten
        self._by_text: dict[str, SchemaNode] = {}  # shared definitions by their text
        self._written_once: dict[SchemaNode, SchemaNode] = {}

    def of(self, node: SchemaNode) -> Any | None:
        """The schema for llguidance, or None if llguidance does not enforce it exactly."""
        whole = self._rewritten(node)
        if (there := self._written_once.get(node)) is not None:
            return there.schema
        if whole is None or not (needed := self._needed(node)):
            return whole
        definitions = {}
        for target in needed:
            definition = self._rewritten(target)
            if definition is None:
                return None
            definitions[self._names[target]] = definition
        if not _all_end(definitions):
            return None
        return {**whole, "$defs": definitions}

    def refers(self, node: SchemaNode) -> bool:
        """True if the schema has a reference of the document, not only shared definitions."""
        written_once = set(self._by_text.values())
        return any(target not in written_once for target in self._needed(node))

    def _needed(self, node: SchemaNode) -> list[SchemaNode]:
        """The targets that a schema refers to, directly or indirectly."""
        needed = dict.fromkeys(self._references[node])
        waiting = list(needed)
        while waiting:
            target = waiting.pop()
            if self._rewritten(target) is None:
                break
            new = [each for each in self._references[target] if each not in needed]
            needed |= dict.fromkeys(new)
            waiting += new
        return list(needed)

    def _rewritten(self, node: SchemaNode) -> Any | None:
        if node not in self._known:
            outer, self._gathered = self._gathered, {}
            try:
                self._known[node] = self._schema(node)
            except _NotNative:
                self._known[node] = None
            self._references[node] = list(self._gathered)
            self._gathered = outer
        if references := self._references[node]:
            self._gathered |= dict.fromkeys(references)
        return self._known[node]

    def _once(self, node: SchemaNode, schema: dict[str, Any]) -> dict[str, Any]:
        if len(schema.get("pattern", "")) < _LONG or not _STRING_ALONE.issuperset(schema):
            return schema
        text = json.dumps(schema, sort_keys=True)
        there = self._by_text.get(text)
        if there is None:
            there = self._by_text[text] = SchemaNode(schema, node.path, node.base)
            self._known[there], self._references[there] = schema, []
            self._names[there] = f"d{len(self._names)}"
        self._written_once[node] = there
        self._gathered[there] = None
        return {"$ref": f"#/$defs/{self._names[there]}"}

    def _sub(self, node: SchemaNode) -> Any:
        schema = self._rewritten(node)
        if schema is None:
            raise _NotNative
        return schema

    def _schema(self, node: SchemaNode) -> Any:
        schema = node.schema
        if isinstance(schema, bool):
            return schema
        plain = _SELDOM.isdisjoint(schema)
        if not plain and not _NOT_HERE.isdisjoint(schema):
            raise _NotNative
        if "$ref" in schema and self._ref_alone:
            return {"$ref": self._reference(node)}
        if schema.get("uniqueItems"):
            raise _NotNative
        new: dict[str, Any] = {}
        for keyword, value in schema.items():
            if keyword in _AS_THEY_ARE:
                if not _is_exact(keyword, value):
                    raise _NotNative
                new[keyword] = value
            elif keyword in _REWRITTEN:
                name = "anyOf" if keyword == "oneOf" else keyword
                if name in new:
                    raise _NotNative
                new[name] = self._keyword(node, keyword, value)
        if plain:
            return new
        if not _OF_STRINGS.isdisjoint(schema):
            self._strings(schema, new)
        if not _OF_NUMBERS.isdisjoint(schema):
            self._numbers(schema, new)
        if not _OF_ITEMS.isdisjoint(schema):
            self._items(node, new)
        return self._once(node, new)

    def _keyword(self, node: SchemaNode, keyword: str, value: Any) -> Any:
        """The value of a keyword that holds schemas or refers to one. Loops, not comprehensions:
        each would be one more frame at each of the levels that a schema may have.
        """
        child = self._resources.child
        schemas: dict[str, Any] = {}
        match keyword:
            case "$ref":
                return self._reference(node)
            case "properties":
                if not all(map(_needs_no_escape, value)):
                    raise _NotNative
                for name in value:
                    schemas[name] = self._sub(child(node, keyword, name))
                return schemas
            case "patternProperties":
                for pattern in value:
                    regex = _anchored(pattern, search=True)
                    schemas[regex] = self._sub(child(node, keyword, pattern))
                if len(schemas) < len(value) or not _have_no_end(node.schema):
                    raise _NotNative  # two equal patterns, or names that may run out
                return schemas
            case "additionalProperties":
                return self._sub(child(node, keyword))
            case "oneOf" if not self._algebra.branches_disjoint(node):
                raise _NotNative
        return [self._sub(child(node, keyword, at)) for at in range(len(value))]

    def _reference(self, node: SchemaNode) -> str:
        target = self._resources.target(node, "$ref")
        name = self._names.get(target)
        if name is None:
            self._refuse_circle(target)
            name = self._names[target] = f"d{len(self._names)}"
        self._gathered[target] = None
        return f"#/$defs/{name}"

    def _refuse_circle(self, target: SchemaNode) -> None:
        """llguidance accepts a cycle of mere references, and then allows no token."""
        seen = set()
        while isinstance(target.schema, Mapping) and "$ref" in target.schema:
            if target in seen:
                raise _NotNative  # the algebra reports the error
            seen.add(target)
            target = self._resources.target(target, "$ref")

    def _strings(self, schema: Any, new: dict[str, Any]) -> None:
        for keyword in ("minLength", "maxLength", "minItems", "maxItems"):
            if keyword in new:
                new[keyword] = int(new[keyword])
        name = schema.get("format", "")
        has_format = name in FORMATS
        if "pattern" not in schema and not has_format:
            return
        if has_format and "pattern" in schema:
            raise _NotNative
        limited = "minLength" in schema or "maxLength" in schema
        if (limited or may_contradict(schema.get("pattern", ""))) and not _holds_some(schema):
            raise _NotNative  # the algebra reports the error
        if has_format:
            new["pattern"] = _anchored(FORMATS[name].narrow, search=False)
        else:
            new["pattern"] = _anchored(schema["pattern"], search=True)

    def _numbers(self, schema: Any, new: dict[str, Any]) -> None:
        step = new.get("multipleOf")
        if step is not None and not (isinstance(step, int) and step <= MAX_STEP):
            raise _NotNative
        for exclusive, inclusive in (
            ("exclusiveMinimum", "minimum"),
            ("exclusiveMaximum", "maximum"),
        ):
            value = schema.get(exclusive)
            if not _is_exact(exclusive, value):
                raise _NotNative
            if isinstance(value, bool):
                if value and inclusive in new:
                    new[exclusive] = new.pop(inclusive)
            elif value is not None:
                new[exclusive] = value

    def _items(self, node: SchemaNode, new: dict[str, Any]) -> None:
        schema, child = node.schema, self._resources.child
        items = schema.get("items")
        prefix = "prefixItems"
        if isinstance(items, list):
            prefix = "items"
            if "additionalItems" in schema:
                new["items"] = self._sub(child(node, "additionalItems"))
        elif items is not None:
            new["items"] = self._sub(child(node, "items"))
        if schema.get(prefix) and (prefix == "prefixItems" or isinstance(items, list)):
            new["prefixItems"] = [
                self._sub(child(node, prefix, at)) for at in range(len(schema[prefix]))
            ]


def _all_end(definitions: dict[str, Any]) -> bool:
    """True if each definition has a finite instance. llguidance does not detect that one has none,
    and enters a dead end.
    """
    ending: set[str] = set()
    waiting = list(reversed(definitions))  # targets come after the schemas that refer to them
    while waiting:
        found = [name for name in waiting if _ends(definitions[name], ending)]
        if not found:
            return False
        ending.update(found)
        waiting = [name for name in waiting if name not in ending]
    return True


def _ends(schema: Any, ending: Container[str]) -> bool:
    """True if the schema has a finite instance, given the definitions in `ending`."""
    if isinstance(schema, bool):
        return True
    if "$ref" in schema and schema["$ref"].removeprefix("#/$defs/") not in ending:
        return False
    if "anyOf" in schema and not any(_ends(sub, ending) for sub in schema["anyOf"]):
        return False
    if not all(_ends(sub, ending) for sub in schema.get("allOf", ())):
        return False
    types = schema.get("type", "null")
    types = {types} if isinstance(types, str) else set(types)
    if "enum" in schema or "const" in schema or types - {"array", "object"}:
        return True
    return ("array" in types and _items_end(schema, ending)) or (
        "object" in types and _members_end(schema, ending)
    )


def _items_end(schema: Any, ending: Container[str]) -> bool:
    least = schema.get("minItems", 0)
    first = schema.get("prefixItems", ())
    rest = schema.get("items", True) if least > len(first) else True
    return _ends(rest, ending) and all(_ends(item, ending) for item in first[:least])


def _members_end(schema: Any, ending: Container[str]) -> bool:
    properties = schema.get("properties", {})
    others = [
        schema.get("additionalProperties", True),
        *schema.get("patternProperties", {}).values(),
    ]
    return all(
        _ends(properties[name], ending)
        if name in properties
        else all(_ends(other, ending) for other in others)
        for name in schema.get("required", ())
    )


def _is_exact(keyword: str, value: Any) -> bool:
    """False for a value that llguidance would change: it writes containers with separators of its
    own, and rounds numbers.
    """
    values = value if keyword == "enum" else [value]
    if keyword in ("enum", "const") and any(isinstance(one, list | Mapping) for one in values):
        return False
    return all(_survives_float64(one) for one in values if isinstance(one, int | float))


def _survives_float64(number: float) -> bool:
    """True for a number that llguidance reads exactly: it is below 2**53, and its digits are an
    integer below 2**53 that one exact power of ten scales.
    """
    if isinstance(number, int) or abs(number) >= 2**53:
        return abs(number) < 2**53
    _, digits, exponent = Decimal(repr(number)).as_tuple()
    return (
        len(digits) <= 16
        and int("".join(map(str, digits))) < 2**53
        and isinstance(exponent, int)
        and -22 <= exponent <= 22
    )


def _have_no_end(schema: Any) -> bool:
    """True only if the names that the patterns allow never run out."""
    patterns = schema["patternProperties"]
    chosen = [(pattern,) for pattern, value in patterns.items() if value is not False]
    rest = [()] if schema.get("additionalProperties") is not False else []
    return names_never_run_out(list(patterns), [*chosen, *rest])


def _needs_no_escape(name: str) -> bool:
    return '"' not in name and "\\" not in name and name.isprintable()


def _holds_some(schema: Any) -> bool:
    """True if a string is found that has the right length and matches."""
    most = schema.get("maxLength")
    has_format = schema.get("format", "") in FORMATS
    strings = Strings(
        least=int(schema.get("minLength", 0)),
        most=None if most is None else int(most),
        patterns=frozenset(() if has_format else [schema["pattern"]]),
        formats=frozenset([schema["format"]] if has_format else ()),
    )
    try:
        token = string_token(strings)
    except RegexError:
        return False
    return token is not None and token_text(token) is not None


def _anchored(pattern: str, *, search: bool) -> str:
    try:
        regex = native_regex(pattern, search=search)
    except RegexError:
        raise _NotNative from None  # the algebra reports the error
    if regex is None:
        raise _NotNative
    return f"^(?:{regex})$"
