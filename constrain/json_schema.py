"""A JSON Schema as rules of llguidance's Lark dialect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from formgate.constrain.algebra import Algebra
from formgate.constrain.dialect import draft_of
from formgate.constrain.errors import ConstraintError
from formgate.constrain.grammar_layout import Grammar, Layout
from formgate.constrain.grammar_rules import build
from formgate.constrain.guard_plan import GuardPlan, guard_plan
from formgate.constrain.native import NativeSchemas
from formgate.constrain.schema_check import checked
from formgate.constrain.shortest import Shortest, shortest

NO_VALUE = "The schema allows no value at all."


@dataclass(frozen=True, slots=True)
class SchemaGrammar:
    start: str
    rules: list[str]
    plan: GuardPlan | None = None
    native: bool = False


def schema_grammar(schema: Any, layout: Layout, name: str, *, native: bool) -> SchemaGrammar:
    """Rules named after `name`. `native`: as llguidance's own where that can be; it may still
    refuse them. Raises ConstraintError.
    """
    resources = checked(schema)
    draft = draft_of(schema)
    algebra = Algebra(resources, draft)
    natives = NativeSchemas(resources, draft, algebra) if native else None
    if natives is not None and (whole := natives.of(resources.root)) is not None:
        if whole is False:
            raise ConstraintError(NO_VALUE, code="unsupported_schema")
        return SchemaGrammar(name, [f"{name}: {layout.native(whole)}"], native=True)
    schemas = ((resources.root, True),)
    grammar = Grammar(algebra, layout, natives)
    start = build(grammar, schemas)
    grammar.cfg.prune()
    if not grammar.cfg.alternatives(start):
        raise ConstraintError(NO_VALUE, code="unsupported_schema")
    plan = guard_plan(algebra, schemas, natives) if grammar.guarded else None
    return SchemaGrammar(*grammar.cfg.lark(start, name), plan, grammar.native)


def shortest_instance(schema: Any, layout: Layout) -> Shortest:
    """Raises ConstraintError."""
    resources = checked(schema)
    grammar = Grammar(Algebra(resources, draft_of(schema)), layout)
    start = build(grammar, ((resources.root, True),))
    grammar.cfg.prune()
    return shortest(grammar.cfg, start)
