"""The grammar under construction, which the rules for arrays and objects share: its spacing, and
the rule of every value.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from formgate.constrain.algebra.algebra import Algebra
from formgate.constrain.algebra.scalar_terms import literal
from formgate.constrain.algebra.shapes import Conjunction, Shape
from formgate.constrain.grammar.cfg import Cfg, Rule, Symbol, Token
from formgate.constrain.rules.llguidance_schemas import NativeSchemas
from formgate.constrain.rules.open_names import has_open_names

_LARGEST_LEAF = 2_000  # characters of a native rule that has definitions
_CONTAINERS = frozenset(("properties", "items", "prefixItems", "anyOf", "allOf", "$ref"))


@dataclass(frozen=True, slots=True)
class Spacing:
    """The separators of a JSON text: exactly those of `json.dumps`, so that each is forced, or with
    white space by a regex.
    """

    whitespace: str | None = None

    @property
    def gap(self) -> tuple[Symbol, ...]:
        return () if self.whitespace is None else (Token(f"/{self.whitespace}/"),)

    @property
    def comma(self) -> tuple[Symbol, ...]:
        if self.whitespace is None:
            return (Token('", "'),)
        return (*self.gap, Token('","'), *self.gap)

    def key(self, text: str, *, first: bool) -> tuple[Symbol, ...]:
        """A member's quoted name with the separators around it."""
        if self.whitespace is None:
            return (Token(literal(("" if first else ", ") + text + ": ")),)
        before = () if first else self.comma
        return (*before, Token(literal(text)), *self.colon)

    def native(self, schema: Any) -> str:
        """llguidance's own rule for a schema, with this spacing."""
        # Replaces `x-guidance` of the schema, which could loosen the enforcement.
        options: dict[str, Any] = {
            "item_separator": ", ",
            "key_separator": ": ",
            "whitespace_flexible": False,
        }
        if self.whitespace is not None:
            options = {"whitespace_flexible": True, "whitespace_pattern": self.whitespace}
        whole = {**(schema if schema is not True else {}), "x-guidance": options}
        return f"%json {json.dumps(whole)}"

    @property
    def colon(self) -> tuple[Symbol, ...]:
        if self.whitespace is None:
            return (Token('": "'),)
        return (*self.gap, Token('":"'), *self.gap)


@dataclass(frozen=True, slots=True)
class Value:
    """A schema and how its values are written. `canonical` values have one spelling, so that equal
    values have equal texts.
    """

    schema: Conjunction
    canonical: bool


class GrammarBuilder:
    """A grammar, and a worklist of values whose rules are still empty. With `natives`, schemas that
    llguidance's own compiler enforces exactly are left to it.
    """

    def __init__(
        self, algebra: Algebra, spacing: Spacing, natives: NativeSchemas | None = None
    ) -> None:
        self.algebra = algebra
        self.spacing = spacing
        self.natives = natives
        self.cfg = Cfg()
        self.values: dict[Value, Rule] = {}
        self.waiting: list[Value] = []
        # The rules of finished values, by their shapes: values with equal shapes share a rule.
        self.of_shapes: dict[tuple[tuple[Shape, ...], bool], Rule] = {}
        self.guarded = False  # some siblings must differ
        self.has_open_names = False  # some object may have members that no schema names
        self.native = False  # some schema is left to llguidance

    def value(self, schema: Conjunction, *, canonical: bool) -> Rule:
        """The rule for a value. A new rule is empty and put on the worklist."""
        value = Value(self.algebra.without_aliases(schema), canonical)
        rule = self.values.get(value)
        if rule is None:
            rule = self.values[value] = self.cfg.rule()
            self.waiting.append(value)
        return rule

    def leaf(self, value: Value) -> Token | None:
        """The whole value as one `%json` of llguidance, or None if that is not possible."""
        if self.natives is None or value.canonical or len(value.schema) != 1:
            return None
        node, holds = value.schema[0]
        schema = self.natives.of(node) if holds else None
        if not isinstance(schema, dict) or _CONTAINERS.isdisjoint(schema):
            return None
        text = self.spacing.native(schema)
        if "$defs" in schema and len(text) > _LARGEST_LEAF and self.natives.refers(node):
            return None  # it would be repeated at each reference
        self.native = True
        self.has_open_names = self.has_open_names or has_open_names(schema)
        return Token(text)
