"""JSON Schema as a boolean algebra: a schema, or its negation, becomes for each kind of value a
list of alternatives (`shapes`), each a plain conjunction. De Morgan's laws eliminate `not` and
`oneOf`; expansion eliminates `if`, `dependent*` and `unevaluated*`. The method is that of
alternating tree automata; see Attouche et al., "Witness Generation for JSON Schema" (VLDB 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import combinations
from typing import Any

from formgate.constrain.algebra.alternatives import Alternatives, with_absent_members
from formgate.constrain.algebra.array_keywords import array_clauses, with_unevaluated_items
from formgate.constrain.algebra.clauses import Clause, OneOfs, not_negatable
from formgate.constrain.algebra.emptiness import Emptiness
from formgate.constrain.algebra.object_keywords import (
    PresenceReader,
    object_clauses,
    presence_clause,
    with_unevaluated_properties,
)
from formgate.constrain.algebra.refusal_places import placed
from formgate.constrain.algebra.scalar_keywords import (
    number_clauses,
    scalar_values,
    string_clauses,
    type_clause,
)
from formgate.constrain.algebra.shapes import (
    KINDS,
    TOP,
    Array,
    Conjunction,
    ConstantSchemas,
    Kind,
    LazyShapes,
    Literal,
    Object,
    Shape,
)
from formgate.constrain.errors import ConstraintError, SelfReferenceError, Unplaced
from formgate.constrain.schema.dialect import Draft
from formgate.constrain.schema.ledger import says_nothing_but
from formgate.constrain.schema.resources import Resources, SchemaNode

_KINDS_OF_TYPE = {kind.value: (kind,) for kind in KINDS} | {"integer": (Kind.NUMBER,)}

_WITH_PARTS = frozenset((Kind.ARRAY, Kind.OBJECT))


class Algebra:
    """Expands lazily: a schema that cannot be expressed raises ConstraintError when it is asked
    for. The work is bounded by `alternatives.MAX_WORK`.
    """

    def __init__(self, resources: Resources, draft: Draft) -> None:
        self._resources = resources
        self._ref_alone = draft.ref_hides_siblings
        self._literals: dict[tuple[Literal, Kind, bool], list[Shape]] = {}
        self._shapes: dict[tuple[Conjunction, Kind], list[Shape]] = {}
        self._running: set[tuple[Literal, Kind, bool]] = set()
        self._aliases: dict[SchemaNode, SchemaNode] = {}
        self._orders: dict[frozenset[Literal], Conjunction] = {}
        self._kinds: dict[SchemaNode, tuple[Kind, ...]] = {}
        self._constants = ConstantSchemas()
        self._alternatives = Alternatives(lambda shape: self._emptiness.of_shape(shape, 2))
        self._presence = PresenceReader(
            resources.child,
            lambda node: resources.target(node, "$ref"),
            ref_alone=self._ref_alone,
        )
        self._emptiness = Emptiness(self.shapes, self.kinds, self._alternatives.spend)
        self._one_ofs = OneOfs(self.literal, self._alternatives, self._emptiness)

    def reset_budget(self) -> None:
        """Reset the work budget."""
        self._alternatives.reset_budget()

    def spend(self, work: int) -> None:
        """Charge `work` to the budget. Raises Unplaced if the budget is exceeded."""
        self._alternatives.spend(work)

    # Conjunctions.

    def shapes(self, schema: Conjunction, kind: Kind) -> list[Shape]:
        """The alternatives for values of one kind; empty if none is allowed."""
        if not schema:
            return [TOP[kind]]
        key = (schema, kind)
        known = self._shapes.get(key)
        if known is None:
            try:
                if len(schema) == 1:
                    known = self.literal(schema[0], kind)
                else:
                    known = self._alternatives.product(self._factors(schema, kind), kind)
                if kind is Kind.OBJECT:
                    known = self._one_ofs.resolved(known)
                self._shapes[key] = known
            except Unplaced as error:
                raise self.placed(error, schema) from None
        return known

    def _factors(self, schema: Conjunction, kind: Kind) -> list[LazyShapes]:
        """The factors of a conjunction's product. Conjunctions of scalars grow literal by literal,
        so the product of all but the last literal is often cached.
        """
        before = self._shapes.get((schema[:-1], kind)) if kind not in _WITH_PARTS else None
        last: list[LazyShapes] = [partial(self.literal, schema[-1], kind)]
        if before is not None:
            return [lambda: before, *last]
        return [*(partial(self.literal, one, kind) for one in schema[:-1]), *last]

    def kinds(self, schema: Conjunction) -> Sequence[Kind]:
        """The kinds of values that `type` allows."""
        kinds: Sequence[Kind] = KINDS
        for node, holds in schema:
            if holds and (own := self._kinds_of(node)) is not KINDS:
                kinds = own if kinds is KINDS else [kind for kind in kinds if kind in own]
        return kinds

    def placed(self, error: Unplaced, schema: Conjunction) -> ConstraintError:
        """Return `error`, which arose from `schema`, with its place in the schema if found."""
        nodes = [self._constants.owner(node) for node, _ in schema]
        found = placed(error, nodes, self._resources.target)
        if self._alternatives.overworked and found is not error:
            self._alternatives.refuse_with(found)
        return found

    def is_empty(self, schema: Conjunction) -> bool:
        """True only if no value satisfies the schema. False may be wrong; see `Emptiness`."""
        return self._emptiness.of(self._as_first_met(schema))

    def branches_disjoint(self, node: SchemaNode) -> bool:
        """True only if no value satisfies two branches of the node's `oneOf`."""
        subs = [self._resources.child(node, "oneOf", at) for at in range(len(node.schema["oneOf"]))]
        try:
            return all(self._one_ofs.disjoint(subs, kind) for kind in KINDS)
        except ConstraintError:
            return False

    def without_aliases(self, schema: Conjunction) -> Conjunction:
        """Replace mere references by their targets, and sort schemas of scalars in one order. Other
        schemas keep theirs, because the order of members depends on it.
        """
        for node, _ in schema:
            if not isinstance(node.schema, bool) and "$ref" in node.schema:
                schema = tuple(
                    dict.fromkeys((self._aliased(node), holds) for node, holds in schema)
                )
                break
        if len(schema) > 1 and _WITH_PARTS.isdisjoint(self.kinds(schema)):
            return self._as_first_met(schema)
        return schema

    def _as_first_met(self, schema: Conjunction) -> Conjunction:
        return self._orders.setdefault(frozenset(schema), schema) if len(schema) > 1 else schema

    def _aliased(self, node: SchemaNode) -> SchemaNode:
        known = self._aliases.get(node)
        if known is not None:
            return known
        first, seen = node, {node}
        while not isinstance(node.schema, bool) and "$ref" in node.schema:
            if not self._ref_alone and not says_nothing_but(node.schema, "$ref"):
                break
            node = self._resources.target(node, "$ref")
            if node in seen:
                break  # a cycle of references; `literal` refuses it
            seen.add(node)
        self._aliases[first] = node
        return node

    # Literals: one schema, or its negation.

    def literal(self, literal: Literal, kind: Kind, *, tracked: bool = False) -> list[Shape]:
        """The alternatives of one schema, or of its negation. With `tracked`, alternatives that
        differ only in what they evaluate stay separate, as `unevaluated*` needs.
        """
        key = (literal, kind, tracked)
        known = self._literals.get(key)
        if known is not None:
            return known
        node, holds = literal
        if isinstance(node.schema, bool):
            return [TOP[kind]] if node.schema == holds else []
        if kind not in self._kinds_of(node):
            return [] if holds else [TOP[kind]]
        if key in self._running:
            keyword = "$ref" if "$ref" in node.schema else None
            raise SelfReferenceError.at(
                node.path if keyword is None else (*node.path, keyword),
                "a schema that refers to itself before it reads any value allows none. Write the "
                "reference below `properties` or `items`",
                keyword=keyword,
            )
        self._running.add(key)
        try:
            clauses = self._clauses(node, kind, tracked)
            if holds:
                shapes = self._alternatives.product(
                    (clause.holds for clause in clauses), kind, tracked=tracked
                )
                shapes = self._with_unevaluated(node, kind, shapes)
            else:
                keyword = _unevaluated(node, kind)
                if keyword is not None and node.schema[keyword] not in (True, {}):
                    not_negatable(node, keyword)()
                shapes = self._alternatives.union(clause.fails for clause in clauses)
                shapes = [_unannotated(shape) for shape in with_absent_members(shapes)]
        except Unplaced as error:
            raise self.placed(error, (literal,)) from None
        finally:
            self._running.discard(key)
        self._literals[key] = shapes
        return shapes

    def _kinds_of(self, node: SchemaNode) -> tuple[Kind, ...]:
        """The kinds that `type` allows; a kind that it excludes needs no further work."""
        kinds = self._kinds.get(node)
        if kinds is None:
            kinds = KINDS
            schema = node.schema
            if not isinstance(schema, bool) and not (self._ref_alone and "$ref" in schema):
                names = schema.get("type")
                if isinstance(names, str):
                    kinds = _KINDS_OF_TYPE[names]
                elif names is not None:
                    allowed = {kind for name in names for kind in _KINDS_OF_TYPE[name]}
                    kinds = tuple(kind for kind in KINDS if kind in allowed)
            self._kinds[node] = kinds
        return kinds

    def _clauses(self, node: SchemaNode, kind: Kind, tracked: bool) -> list[Clause]:
        schema = node.schema
        if self._ref_alone and "$ref" in schema:
            return [self._reference(node, "$ref", kind, tracked)]
        clauses: list[Clause] = []
        if "type" in schema:
            names = schema["type"]
            clauses.append(type_clause([names] if isinstance(names, str) else names, kind))
        clauses += [
            self._reference(node, keyword, kind, tracked)
            for keyword in ("$ref", "$dynamicRef", "$recursiveRef")
            if keyword in schema
        ]
        if "const" in schema:
            clauses.append(self._one_of_values(node, [schema["const"]], kind))
        if "enum" in schema:
            clauses.append(self._one_of_values(node, schema["enum"], kind))
        match kind:
            case Kind.NUMBER:
                clauses += number_clauses(node)
            case Kind.STRING:
                clauses += string_clauses(node)
            case Kind.ARRAY:
                clauses += array_clauses(node, self._resources.child)
            case Kind.OBJECT:
                clauses += object_clauses(
                    node,
                    self._resources.child,
                    lambda sub, holds: self.literal((sub, holds), kind, tracked=tracked and holds),
                    (lambda _: None) if tracked else self._presence.of,
                )
        clauses += self._applicators(node, kind, tracked)
        return clauses

    def _reference(self, node: SchemaNode, keyword: str, kind: Kind, tracked: bool) -> Clause:
        target = self._resources.target(node, keyword)
        return self._of_literal(target, kind, tracked)

    def _of_literal(self, node: SchemaNode, kind: Kind, tracked: bool) -> Clause:
        return Clause(
            lambda: self.literal((node, True), kind, tracked=tracked),
            lambda: self.literal((node, False), kind),
        )

    def _applicators(self, node: SchemaNode, kind: Kind, tracked: bool) -> Iterable[Clause]:
        schema = node.schema
        for keyword in ("allOf", "anyOf", "oneOf"):
            if keyword not in schema:
                continue
            subs = [self._resources.child(node, keyword, at) for at in range(len(schema[keyword]))]
            if keyword == "allOf":
                yield from (self._of_literal(sub, kind, tracked) for sub in subs)
                continue
            if kind is Kind.OBJECT and not tracked:
                formula = self._presence.of_branches(keyword, subs)
                if formula is not None:
                    yield presence_clause(formula)
                    continue
            yield (
                self._any_of(subs, kind, tracked)
                if keyword == "anyOf"
                else self._one_ofs.clause(subs, kind, tracked)
            )
        if "not" in schema:
            sub = self._resources.child(node, "not")
            yield Clause(
                lambda: self.literal((sub, False), kind),
                lambda: self.literal((sub, True), kind),
            )
        if "if" in schema and ("then" in schema or "else" in schema or tracked):
            yield self._if(node, kind, tracked)

    def _any_of(self, subs: list[SchemaNode], kind: Kind, tracked: bool) -> Clause:
        def holds() -> list[Shape]:
            ways: list[Callable[[], list[Shape]]] = [
                partial(self.literal, (sub, True), kind, tracked=tracked) for sub in subs
            ]
            if tracked:  # each branch that holds evaluates, so each set of branches is one way
                ways += [
                    partial(
                        self._alternatives.product,
                        [partial(self.literal, (sub, True), kind, tracked=True) for sub in chosen],
                        kind,
                        tracked=True,
                    )
                    for size in range(2, min(len(subs), 4) + 1)
                    for chosen in combinations(subs, size)
                ]
            return self._alternatives.union(ways, tracked=tracked)

        return Clause(
            holds,
            lambda: self._alternatives.product(
                (partial(self.literal, (sub, False), kind) for sub in subs), kind
            ),
        )

    def _if(self, node: SchemaNode, kind: Kind, tracked: bool) -> Clause:
        child = self._resources.child
        condition = child(node, "if")

        def way(met: bool, holds: bool) -> list[Shape]:
            keyword = "then" if met else "else"
            parts = [lambda: self.literal((condition, met), kind, tracked=tracked and met)]
            if keyword in node.schema:
                sub = child(node, keyword)
                parts.append(lambda: self.literal((sub, holds), kind, tracked=tracked and holds))
            elif not holds:
                return []
            return self._alternatives.product(parts, kind, tracked=tracked)

        if kind is Kind.OBJECT and not tracked:
            formula = self._presence.of_condition(node)
            if formula is not None:
                return presence_clause(formula)
        return Clause(
            lambda: self._alternatives.limited(way(True, True) + way(False, True), tracked=tracked),
            lambda: self._alternatives.limited(way(True, False) + way(False, False)),
        )

    def _one_of_values(self, owner: SchemaNode, values: list[Any], kind: Kind) -> Clause:
        scalar = scalar_values(values, kind)
        if scalar is not None:
            return scalar
        wanted = list if kind is Kind.ARRAY else dict
        nodes = [self._constants.of(owner, value) for value in values if isinstance(value, wanted)]
        # For `unevaluated*`, `const` and `enum` evaluate no part of a value.
        return Clause(
            lambda: [
                _unannotated(shape) for node in nodes for shape in self.literal((node, True), kind)
            ],
            lambda: self._alternatives.product(
                (partial(self.literal, (node, False), kind) for node in nodes), kind
            ),
        )

    def _with_unevaluated(self, node: SchemaNode, kind: Kind, shapes: list[Shape]) -> list[Shape]:
        keyword = _unevaluated(node, kind)
        if keyword is None:
            return shapes
        clauses = self._clauses(node, kind, True)
        ways = self._alternatives.product((clause.holds for clause in clauses), kind, tracked=True)
        ways = self._one_ofs.resolved(ways)
        rest = self._resources.child(node, keyword)
        if kind is Kind.OBJECT:
            return [with_unevaluated_properties(way, rest) for way in ways]
        return [with_unevaluated_items(way, rest, self._resources.either) for way in ways]


def _unevaluated(node: SchemaNode, kind: Kind) -> str | None:
    keyword = {Kind.OBJECT: "unevaluatedProperties", Kind.ARRAY: "unevaluatedItems"}.get(kind)
    return keyword if keyword in node.schema else None


def _unannotated(shape: Shape) -> Shape:
    return shape.unannotated() if isinstance(shape, Array | Object) else shape
