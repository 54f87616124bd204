"""A JSON Schema as rules of llguidance's Lark dialect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from formgate.constrain.algebra.algebra import Algebra
from formgate.constrain.algebra.least_size import refuse_too_large
from formgate.constrain.errors import ConstraintError
from formgate.constrain.grammar.rule_writing import lark_rules
from formgate.constrain.grammar.shortest import Shortest, shortest
from formgate.constrain.rules.emptiness_reason import no_instance_error
from formgate.constrain.rules.grammar_builder import GrammarBuilder, Spacing
from formgate.constrain.rules.grammar_rules import build
from formgate.constrain.rules.guard_plan import GuardPlan, guard_plan
from formgate.constrain.rules.llguidance_schemas import NativeSchemas
from formgate.constrain.rules.open_names import has_open_names
from formgate.constrain.schema.dialect import draft_of
from formgate.constrain.schema.resources import Resources
from formgate.constrain.schema.schema_check import checked

# Keywords that need a guard, the likeliest first.
_GUARDED = (
    *("uniqueItems", "minProperties", "maxProperties", "not", "propertyNames"),
    *("oneOf", "if", "dependentSchemas"),
)


@dataclass(frozen=True, slots=True)
class SchemaGrammar:
    start: str
    rules: list[str]
    plan: GuardPlan | None = None
    native: bool = False


class ReadSchemas:
    """The schemas of one answer tree. Each is checked once, and its algebra is kept."""

    def __init__(self) -> None:
        self._read: dict[int, tuple[Resources, Algebra]] = {}  # by identity

    def of(self, schema: Any) -> tuple[Resources, Algebra]:
        """Return a schema's resources, and its algebra with a fresh budget. Raises
        ConstraintError.
        """
        known = self._read.get(id(schema))
        if known is None:
            resources = checked(schema)
            refuse_too_large(resources, ref_alone=draft_of(schema).ref_hides_siblings)
            known = self._read[id(schema)] = resources, Algebra(resources, draft_of(schema))
        known[1].reset_budget()
        return known


def schema_grammar(
    schema: Any, spacing: Spacing, name: str, *, native: bool, read: ReadSchemas
) -> SchemaGrammar:
    """Rules for a schema, with names that begin with `name`. With `native`, parts are left to
    llguidance's own compiler, which may still refuse them. Raises ConstraintError.
    """
    resources, algebra = read.of(schema)
    natives = NativeSchemas(resources, draft_of(schema), algebra) if native else None
    if natives is not None and (whole := natives.of(resources.root)) is not None:
        if whole is False:
            raise no_instance_error(algebra, resources)
        names = GuardPlan(()) if has_open_names(whole) else None
        return SchemaGrammar(name, [f"{name}: {spacing.native(whole)}"], names, native=True)
    schemas = ((resources.root, True),)
    grammar = GrammarBuilder(algebra, spacing, natives)
    start = build(grammar, schemas)
    grammar.cfg.prune()
    if not grammar.cfg.alternatives(start):
        raise no_instance_error(algebra, resources)
    plan = guard_plan(algebra, schemas, natives) if grammar.guarded else None
    if plan is None and grammar.has_open_names:
        plan = GuardPlan(())
    return SchemaGrammar(*lark_rules(grammar.cfg, start, name), plan, grammar.native)


def guard_refusal(schema: Any) -> ConstraintError:
    """The refusal of a guarded schema at a place where a guard cannot tell that the text begins."""
    found = min(
        (
            (_GUARDED.index(keyword), node.path)
            for node in checked(schema)
            if not isinstance(node.schema, bool)
            for keyword in _GUARDED
            if node.schema.get(keyword, False) is not False
        ),
        default=None,
        key=lambda place: place[0],
    )
    keyword = None if found is None else _GUARDED[found[0]]
    return ConstraintError.at(
        () if found is None or keyword is None else (*found[1], keyword),
        "it can be enforced only at the start of the answer or after a fixed text. Write a fixed "
        "text (the `begin` of a tag) directly before the JSON text, or omit the keyword",
        keyword=keyword,
    )


def shortest_instance(schema: Any, spacing: Spacing, read: ReadSchemas) -> Shortest:
    """The shortest text of the grammar, without the conditions of guards. Raises
    ConstraintError.
    """
    resources, algebra = read.of(schema)
    grammar = GrammarBuilder(algebra, spacing)
    start = build(grammar, ((resources.root, True),))
    grammar.cfg.prune()
    return shortest(grammar.cfg, start)
