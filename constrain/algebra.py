"""JSON Schema as a boolean algebra: a schema, or its negation, becomes for each kind of value a
list of alternatives (`shapes`), each a plain conjunction. `not` and `oneOf` vanish here by De
Morgan's laws, `if`, `dependent*` and `unevaluated*` by expansion. The idea is that of alternating
tree automata; Attouche et al., "Witness Generation for JSON Schema" (VLDB 2022), work it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

from formgate.constrain.array_keywords import array_clauses, with_unevaluated_items
from formgate.constrain.clauses import Clause, not_negatable
from formgate.constrain.dialect import Draft
from formgate.constrain.emptiness import Emptiness
from formgate.constrain.errors import ConstraintError, SelfReferenceError, Unplaced
from formgate.constrain.keywords import says_nothing_but
from formgate.constrain.object_keywords import (
    PresenceReader,
    object_clauses,
    presence_clause,
    with_unevaluated_properties,
)
from formgate.constrain.refusal_places import placed
from formgate.constrain.resources import Node, Resources
from formgate.constrain.scalar_keywords import (
    number_clauses,
    scalar_values,
    string_clauses,
    type_clause,
)
from formgate.constrain.shapes import (
    TOP,
    Array,
    Conjunction,
    Kind,
    Literal,
    Object,
    OneOf,
    Shape,
    meet,
)

MAX_SHAPES = 4_000  # alternatives of one schema for one kind of value
MAX_WORK = 40_000  # pairs of alternatives that are looked at: about a third of a second
MOST_COMPARED = 60  # alternatives that are compared with each other

# What makes alternatives; the likeliest to make many first.
_BRANCHING = (
    *("oneOf", "anyOf", "not", "if", "allOf", "dependentSchemas", "dependencies", "enum"),
    *("unevaluatedProperties", "unevaluatedItems", "type"),
)
_FEWER = (
    "Write fewer branches, or give each a `required` member with a `const` of its own, which tells "
    "them apart"
)
_NOWHERE = "const:"  # the base of schemas that stand nowhere in the document


class Algebra:
    """Raises ConstraintError for what it cannot express, when that is asked for."""

    def __init__(self, resources: Resources, draft: Draft) -> None:
        self._resources = resources
        self._draft = draft
        self._literals: dict[tuple[Literal, Kind, bool], list[Shape]] = {}
        self._shapes: dict[tuple[Conjunction, Kind], list[Shape]] = {}
        self._running: set[tuple[Literal, Kind, bool]] = set()
        self._constants: dict[int, Node] = {}
        self._origins: dict[str, Node] = {}  # of constants: the schemas that name them
        self._work = 0
        self._overworked: ConstraintError | None = None
        self._presence = PresenceReader(
            resources.child,
            lambda node: resources.target(node, "$ref"),
            ref_alone=draft.ref_hides_siblings,
        )
        self._emptiness = Emptiness(self.shapes)

    # What a conjunction allows.

    def shapes(self, schema: Conjunction, kind: Kind) -> list[Shape]:
        """The alternatives for values of one kind; none if no such value is allowed."""
        if not schema:
            return [TOP[kind]]
        key = (schema, kind)
        known = self._shapes.get(key)
        if known is None:
            try:
                if len(schema) == 1:
                    known = self.literal(schema[0], kind)
                else:
                    known = self._product(
                        (partial(self.literal, one, kind) for one in schema), kind
                    )
                known = self._shapes[key] = self._resolved(known)
            except Unplaced as error:
                raise self.placed(error, schema) from None
        return known

    def placed(self, error: Unplaced, schema: Conjunction) -> ConstraintError:
        """`error`, which came up while `schema` was worked out, with its place if that is known."""
        nodes = [
            self._origins.get(str(node.path[1]), node) if node.base == _NOWHERE else node
            for node, _ in schema
        ]
        found = placed(error, nodes, self._resources.target)
        if self._work > MAX_WORK and self._overworked is None and found is not error:
            self._overworked = found
        return found

    def is_empty(self, schema: Conjunction) -> bool:
        """True only if no value at all satisfies it."""
        return self._emptiness.of(schema)

    def branches_apart(self, node: Node) -> bool:
        """Whether no value satisfies two branches of the node's `oneOf`."""
        subs = [self._resources.child(node, "oneOf", at) for at in range(len(node.schema["oneOf"]))]
        try:
            return not any(self._overlapping(subs, kind) for kind in Kind)
        except ConstraintError:
            return False

    def _overlapping(self, subs: list[Node], kind: Kind) -> set[tuple[int, int]]:
        branches = [self.literal((sub, True), kind) for sub in subs]
        return {
            (one, two)
            for one, two in combinations(range(len(subs)), 2)
            if branches[one]
            and branches[two]
            and not self._emptiness.apart(branches[one], branches[two])
        }

    def without_aliases(self, schema: Conjunction) -> Conjunction:
        """The same schemas, none of them a mere reference to another."""
        if not any("$ref" in node.schema for node, _ in schema if node.schema not in (True, False)):
            return schema
        return tuple(dict.fromkeys((self._aliased(node), holds) for node, holds in schema))

    def _aliased(self, node: Node) -> Node:
        seen = {node}
        while not isinstance(node.schema, bool) and "$ref" in node.schema:
            if not self._draft.ref_hides_siblings and not says_nothing_but(node.schema, "$ref"):
                break
            node = self._resources.target(node, "$ref")
            if node in seen:
                break  # a circle of references, which is refused where it is read
            seen.add(node)
        return node

    # What one schema, or its negation, allows.

    def literal(self, literal: Literal, kind: Kind, *, tracked: bool = False) -> list[Shape]:
        """`tracked`: for `unevaluated*`, the ways through a schema are told apart that otherwise
        would be one.
        """
        key = (literal, kind, tracked)
        known = self._literals.get(key)
        if known is not None:
            return known
        node, holds = literal
        if isinstance(node.schema, bool):
            return [TOP[kind]] if node.schema == holds else []
        if self._other_type(node, kind):
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
                shapes = self._product((clause.holds for clause in clauses), kind)
                shapes = self._with_unevaluated(node, kind, shapes)
            else:
                if (keyword := _unevaluated(node, kind)) is not None:
                    not_negatable(node, keyword)()
                shapes = self._union(clause.fails for clause in clauses)
                shapes = [_unannotated(shape) for shape in shapes]
        except Unplaced as error:
            raise self.placed(error, (literal,)) from None
        finally:
            self._running.discard(key)
        self._literals[key] = shapes
        return shapes

    def _other_type(self, node: Node, kind: Kind) -> bool:
        """Whether `type` alone rules the kind out, which spares a look at all the rest."""
        names = node.schema.get("type")
        if names is None or (self._draft.ref_hides_siblings and "$ref" in node.schema):
            return False
        if kind is Kind.NUMBER and "integer" in names:
            return False
        return kind.value != names if isinstance(names, str) else kind.value not in names

    def _clauses(self, node: Node, kind: Kind, tracked: bool) -> list[Clause]:
        schema = node.schema
        if self._draft.ref_hides_siblings and "$ref" in schema:
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

    def _reference(self, node: Node, keyword: str, kind: Kind, tracked: bool) -> Clause:
        target = self._resources.target(node, keyword)
        return self._of_literal(target, kind, tracked)

    def _of_literal(self, node: Node, kind: Kind, tracked: bool) -> Clause:
        return Clause(
            lambda: self.literal((node, True), kind, tracked=tracked),
            lambda: self.literal((node, False), kind),
        )

    def _applicators(self, node: Node, kind: Kind, tracked: bool) -> Iterable[Clause]:
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
                else self._one_of(subs, kind, tracked)
            )
        if "not" in schema:
            sub = self._resources.child(node, "not")
            yield Clause(
                lambda: self.literal((sub, False), kind),
                lambda: self.literal((sub, True), kind),
            )
        if "if" in schema and ("then" in schema or "else" in schema or tracked):
            yield self._if(node, kind, tracked)

    def _any_of(self, subs: list[Node], kind: Kind, tracked: bool) -> Clause:
        def holds() -> list[Shape]:
            ways: list[Callable[[], list[Shape]]] = [
                partial(self.literal, (sub, True), kind, tracked=tracked) for sub in subs
            ]
            if tracked:  # each branch that holds counts, so those that hold together do
                ways += [
                    partial(
                        self._product,
                        [partial(self.literal, (sub, True), kind, tracked=True) for sub in chosen],
                        kind,
                    )
                    for size in range(2, min(len(subs), 4) + 1)
                    for chosen in combinations(subs, size)
                ]
            return self._union(ways)

        return Clause(
            holds,
            lambda: self._product(
                (partial(self.literal, (sub, False), kind) for sub in subs), kind
            ),
        )

    def _one_of(self, subs: list[Node], kind: Kind, tracked: bool) -> Clause:
        def holds() -> list[Shape]:
            if kind is Kind.OBJECT:
                # Put off: beside what else is said, fewer branches overlap.
                return [Object(one_of=(OneOf(tuple(subs), tracked),))]
            branches = [self.literal((sub, True), kind, tracked=tracked) for sub in subs]
            return self._exactly_one(branches, subs, kind)

        def fails() -> list[Shape]:
            none = self._product((partial(self.literal, (sub, False), kind) for sub in subs), kind)
            for one, two in sorted(self._overlapping(subs, kind)):
                none = none + self._product(
                    (partial(self.literal, (sub, True), kind) for sub in (subs[one], subs[two])),
                    kind,
                )
            return self._limited(none)

        return Clause(holds, fails)

    def _exactly_one(
        self, branches: list[list[Shape]], subs: Sequence[Node], kind: Kind
    ) -> list[Shape]:
        """Of the alternatives of each branch, those in which no other branch holds."""
        found: list[Shape] = []
        for at, branch in enumerate(branches):
            kept = branch
            for place, other in enumerate(branches):
                if place == at or not other:
                    continue
                kept = self._limited(
                    [
                        left
                        for shape in kept
                        for left in self._without(shape, other, (subs[place], False), kind)
                    ]
                )
            found += kept
        return self._limited(found)

    def _without(
        self, shape: Shape, other: list[Shape], negation: Literal, kind: Kind
    ) -> Iterator[Shape]:
        if self._emptiness.apart([shape], other):
            yield shape
            return
        for wrong in self.literal(negation, kind):
            met = self._met(shape, wrong)
            if met is not None and not self._emptiness.of_shape(met):
                yield met

    def _resolved(self, shapes: list[Shape]) -> list[Shape]:
        """With no `oneOf` put off any more."""
        if not any(isinstance(shape, Object) and shape.one_of for shape in shapes):
            return shapes
        done: list[Shape] = []
        waiting = list(reversed(shapes))
        while waiting:
            shape = waiting.pop()
            if not isinstance(shape, Object) or not shape.one_of:
                done.append(shape)
                continue
            chosen, *others = shape.one_of
            base = replace(shape, one_of=tuple(others))
            branches = [
                self._resolved(
                    [
                        met
                        for one in self.literal((sub, True), Kind.OBJECT, tracked=chosen.tracked)
                        if (met := self._met(base, one)) is not None
                        and not self._emptiness.of_shape(met)
                    ]
                )
                for sub in chosen.branches
            ]
            waiting += reversed(self._exactly_one(branches, chosen.branches, Kind.OBJECT))
            if len(waiting) + len(done) > MAX_SHAPES:
                raise _too_many()
        return self._limited(done)

    def _if(self, node: Node, kind: Kind, tracked: bool) -> Clause:
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
            return self._product(parts, kind)

        if kind is Kind.OBJECT and not tracked:
            formula = self._presence.of_condition(node)
            if formula is not None:
                return presence_clause(formula)
        return Clause(
            lambda: self._limited(way(True, True) + way(False, True)),
            lambda: self._limited(way(True, False) + way(False, False)),
        )

    def _one_of_values(self, owner: Node, values: list[Any], kind: Kind) -> Clause:
        scalar = scalar_values(values, kind)
        if scalar is not None:
            return scalar
        wanted = list if kind is Kind.ARRAY else dict
        nodes = [self._constant(owner, value) for value in values if isinstance(value, wanted)]
        # To equal a value evaluates none of its parts, as `unevaluated*` means it.
        return Clause(
            lambda: [
                _unannotated(shape) for node in nodes for shape in self.literal((node, True), kind)
            ],
            lambda: self._product(
                (partial(self.literal, (node, False), kind) for node in nodes), kind
            ),
        )

    def _constant(self, owner: Node, value: Any) -> Node:
        """The schema that says of an array or an object, part by part, that it equals `value`."""
        node = self._constants.get(id(value))
        if node is None:
            schema: dict[str, Any]
            if isinstance(value, list):
                schema = {"type": "array", "minItems": len(value), "maxItems": len(value)}
                if value:
                    schema["prefixItems"] = [{"const": item} for item in value]
            else:
                schema = {
                    "type": "object",
                    "properties": {name: {"const": part} for name, part in value.items()},
                    "required": list(value),
                    "additionalProperties": False,
                }
            # A path of its own: it stands nowhere in the document.
            name = f"#{len(self._constants)}"
            node = self._constants[id(value)] = Node(schema, ("const", name), _NOWHERE)
            inner = owner.base == _NOWHERE
            self._origins[name] = self._origins[str(owner.path[1])] if inner else owner
        return node

    def _with_unevaluated(self, node: Node, kind: Kind, shapes: list[Shape]) -> list[Shape]:
        keyword = _unevaluated(node, kind)
        if keyword is None:
            return shapes
        clauses = self._clauses(node, kind, True)
        ways = self._resolved(self._product((clause.holds for clause in clauses), kind))
        rest = ((self._resources.child(node, keyword), True),)
        add = with_unevaluated_properties if kind is Kind.OBJECT else with_unevaluated_items
        return [add(way, rest) for way in ways]

    # Unions and products of lists of alternatives.

    def _union(self, ways: Iterable[Callable[[], list[Shape]]]) -> list[Shape]:
        return self._limited([shape for way in ways for shape in way()])

    def _product(self, factors: Iterable[Callable[[], list[Shape]]], kind: Kind) -> list[Shape]:
        product: list[Shape] = [TOP[kind]]
        for factor in factors:
            if not product:
                break
            alternatives = factor()
            if len(product) * len(alternatives) > 20 * MAX_SHAPES:
                raise _too_many()
            if product == [TOP[kind]]:
                product = alternatives
                continue
            product = self._limited(
                [met for one in product for two in alternatives if (met := self._met(one, two))]
            )
        return product

    def _met(self, one: Shape, two: Shape) -> Shape | None:
        self._work += 1
        if self._work > MAX_WORK:
            raise self._overworked or Unplaced(
                f"its alternatives take too long to work out. {_FEWER}",
                keywords=_BRANCHING,
                code="schema_too_complex",
            )
        return meet(one, two)

    def _limited(self, shapes: list[Shape]) -> list[Shape]:
        if len(shapes) > 1:
            shapes = _without_special_cases(list(dict.fromkeys(shapes)))
        if len(shapes) > MAX_SHAPES:
            raise _too_many()
        return shapes


def _unevaluated(node: Node, kind: Kind) -> str | None:
    keyword = {Kind.OBJECT: "unevaluatedProperties", Kind.ARRAY: "unevaluatedItems"}.get(kind)
    return keyword if keyword in node.schema else None


def _unannotated(shape: Shape) -> Shape:
    return shape.unannotated() if isinstance(shape, Array | Object) else shape


def _without_special_cases(shapes: list[Shape]) -> list[Shape]:
    """Without the objects that another alternative allows already."""
    if len(shapes) > MOST_COMPARED or not isinstance(shapes[0], Object):
        return shapes
    objects = [shape for shape in shapes if isinstance(shape, Object)]
    return [
        one
        for at, one in enumerate(objects)
        if not any(other.covers(one) for place, other in enumerate(objects) if place != at)
    ]


def _too_many() -> Unplaced:
    return Unplaced(
        f"there are more than {MAX_SHAPES} ways through it and what is beside it. {_FEWER}",
        keywords=_BRANCHING,
        code="schema_too_complex",
    )
