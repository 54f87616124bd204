"""What the rules for arrays and objects share: the grammar that they write into, the layout of the
text, and the rule of every value.
"""

from __future__ import annotations

from dataclasses import dataclass

from formgate.constrain.algebra import Algebra
from formgate.constrain.cfg import Cfg, Rule, Symbol, Token
from formgate.constrain.scalar_terms import literal
from formgate.constrain.shapes import Conjunction


@dataclass(frozen=True, slots=True)
class Layout:
    """What stands between the parts of a JSON text: `json.dumps`'s own style, and nothing else, so
    that every separator is forced; or white space by a regex.
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
        """A member's name, quoted, and what stands about it."""
        if self.whitespace is None:
            return (Token(literal(("" if first else ", ") + text + ": ")),)
        before = () if first else self.comma
        return (*before, Token(literal(text)), *self.colon)

    @property
    def colon(self) -> tuple[Symbol, ...]:
        if self.whitespace is None:
            return (Token('": "'),)
        return (*self.gap, Token('":"'), *self.gap)


@dataclass(frozen=True, slots=True)
class Value:
    """A `canonical` value is written in one way only, so that two that are equal look the same."""

    schema: Conjunction
    canonical: bool


class Grammar:
    def __init__(self, algebra: Algebra, layout: Layout) -> None:
        self.algebra = algebra
        self.layout = layout
        self.cfg = Cfg()
        self.values: dict[Value, Rule] = {}
        self.waiting: list[Value] = []
        self.guarded = False  # whether siblings somewhere must differ

    def value(self, schema: Conjunction, *, canonical: bool) -> Rule:
        """The rule for a value; what stands in it is worked out later."""
        value = Value(schema, canonical)
        rule = self.values.get(value)
        if rule is None:
            rule = self.values[value] = self.cfg.rule()
            self.waiting.append(value)
        return rule
