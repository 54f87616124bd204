"""A JSON Schema as rules of llguidance's Lark dialect."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from formgate.constrain.algebra import Algebra
from formgate.constrain.dialect import draft_of
from formgate.constrain.errors import ConstraintError
from formgate.constrain.grammar_layout import Grammar, Layout
from formgate.constrain.grammar_rules import build
from formgate.constrain.guard_plan import GuardPlan, guard_plan
from formgate.constrain.native import native_schema
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
    """Rules named after `name`. `native`: as llguidance's own, if that can be; it may still refuse
    them. Raises ConstraintError.
    """
    resources = checked(schema)
    draft = draft_of(schema)
    algebra = Algebra(resources, draft)
    if native and (rewritten := native_schema(resources, draft, algebra)) is not None:
        if rewritten is False:
            raise ConstraintError(NO_VALUE, code="unsupported_schema")
        text = json.dumps(_with_layout(rewritten, layout))
        return SchemaGrammar(name, [f"{name}: %json {text}"], native=True)
    whole = ((resources.root, True),)
    grammar = Grammar(algebra, layout)
    start = build(grammar, whole)
    grammar.cfg.prune()
    if not grammar.cfg.alternatives(start):
        raise ConstraintError(NO_VALUE, code="unsupported_schema")
    plan = guard_plan(algebra, whole) if grammar.guarded else None
    return SchemaGrammar(*grammar.cfg.lark(start, name), plan)


def shortest_instance(schema: Any, layout: Layout) -> Shortest:
    """Raises ConstraintError."""
    resources = checked(schema)
    grammar = Grammar(Algebra(resources, draft_of(schema)), layout)
    start = build(grammar, ((resources.root, True),))
    grammar.cfg.prune()
    return shortest(grammar.cfg, start)


def _with_layout(schema: Any, layout: Layout) -> Any:
    # Ours replaces any that came with the schema: it must not loosen its own enforcement.
    options: dict[str, Any] = {
        "item_separator": ", ",
        "key_separator": ": ",
        "whitespace_flexible": False,
    }
    if layout.whitespace is not None:
        options = {"whitespace_flexible": True, "whitespace_pattern": layout.whitespace}
    return {**(schema if schema is not True else {}), "x-guidance": options}
