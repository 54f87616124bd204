"""A JSON Schema as rules of llguidance's Lark dialect."""

from __future__ import annotations

from typing import Any

from formgate.constrain.algebra import Algebra
from formgate.constrain.dialect import draft_of
from formgate.constrain.errors import ConstraintError
from formgate.constrain.grammar_layout import Grammar, Layout
from formgate.constrain.grammar_rules import build
from formgate.constrain.schema_check import checked


def schema_rules(schema: Any, layout: Layout, name: str) -> tuple[str, list[str]]:
    """The start rule's name and the rules, each named after `name`. Raises ConstraintError."""
    resources = checked(schema)
    grammar = Grammar(Algebra(resources, draft_of(schema)), layout)
    start = build(grammar, ((resources.root, True),))
    grammar.cfg.prune()
    if not grammar.cfg.alternatives(start):
        raise ConstraintError("The schema allows no value at all.", code="unsupported_schema")
    return grammar.cfg.lark(start, name)
