"""A keyword as two lists of alternatives: those in which it holds, and those in which it fails.
`oneOf` takes the alternatives of each branch in which no other branch holds. For objects that waits
until the keywords beside it are known, as fewer branches overlap then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Protocol

from formgate.constrain.algebra.alternatives import MAX_SHAPES, Alternatives, too_many
from formgate.constrain.algebra.emptiness import Emptiness
from formgate.constrain.algebra.shapes import Kind, LazyShapes, Literal, Object, OneOf, Shape
from formgate.constrain.errors import ConstraintError
from formgate.constrain.schema.resources import SchemaNode


@dataclass(frozen=True, slots=True)
class Clause:
    """Both lists are computed on demand, because a negation is seldom needed."""

    holds: LazyShapes
    fails: LazyShapes


def listed(holds: list[Shape], fails: list[Shape]) -> Clause:
    return Clause(lambda: holds, lambda: fails)


_INSTEAD = {
    "multipleOf": "list which numbers may come, by bounds, an `enum` or another `multipleOf`",
    "uniqueItems": "limit how many items the array has, or omit `uniqueItems` there",
    "unevaluatedProperties": "write `additionalProperties`, whose negation is enforced",
    "unevaluatedItems": "write `items`, whose negation is enforced",
}


def not_negatable(node: SchemaNode, keyword: str) -> LazyShapes:
    """The failing side of a keyword whose negation no mask can enforce."""

    def refuse() -> list[Shape]:
        raise ConstraintError.at(
            (*node.path, keyword),
            "its negation is needed (by `not`, `oneOf`, `if` or a similar keyword), and cannot be "
            f"enforced. Instead, {_INSTEAD[keyword]}",
            keyword=keyword,
        )

    return refuse


class OfLiteral(Protocol):
    def __call__(self, literal: Literal, kind: Kind, *, tracked: bool = False) -> list[Shape]: ...


class OneOfs:
    """Computes `oneOf` from the alternatives of its branches."""

    def __init__(
        self, literal: OfLiteral, alternatives: Alternatives, emptiness: Emptiness
    ) -> None:
        self._literal = literal
        self._alternatives = alternatives
        self._emptiness = emptiness

    def clause(self, subs: list[SchemaNode], kind: Kind, tracked: bool) -> Clause:
        def holds() -> list[Shape]:
            if kind is Kind.OBJECT:
                return [Object(one_of=(OneOf(tuple(subs), tracked),))]
            branches = [self._literal((sub, True), kind, tracked=tracked) for sub in subs]
            return self._exactly_one(branches, subs, kind, tracked)

        def fails() -> list[Shape]:
            product = self._alternatives.product
            none = product((partial(self._literal, (sub, False), kind) for sub in subs), kind)
            for one, two in self._overlapping(subs, kind):
                none = none + product(
                    (partial(self._literal, (sub, True), kind) for sub in (subs[one], subs[two])),
                    kind,
                )
            return self._alternatives.limited(none)

        return Clause(holds, fails)

    def disjoint(self, subs: list[SchemaNode], kind: Kind) -> bool:
        """True only if no value of the kind satisfies two branches."""
        return next(self._overlapping(subs, kind), None) is None

    def _overlapping(self, subs: list[SchemaNode], kind: Kind) -> Iterator[tuple[int, int]]:
        """The pairs of branches that one value may satisfy."""
        branches = [self._literal((sub, True), kind) for sub in subs]
        if self._emptiness.have_a_tag(branches):
            return
        some = [at for at, branch in enumerate(branches) if branch]
        for one, two in combinations(some, 2):
            if not self._emptiness.disjoint(branches[one], branches[two]):
                yield one, two

    def resolved(self, shapes: list[Shape]) -> list[Shape]:
        """The alternatives with every postponed `oneOf` resolved."""
        if not any(isinstance(shape, Object) and shape.one_of for shape in shapes):
            return shapes
        done: list[Shape] = []
        tracked = False
        waiting = list(reversed(shapes))
        while waiting:
            shape = waiting.pop()
            if not isinstance(shape, Object) or not shape.one_of:
                done.append(shape)
                continue
            chosen, *others = shape.one_of
            tracked |= chosen.tracked
            base = replace(shape, one_of=tuple(others))
            branches = [
                self.resolved(
                    [
                        met
                        for one in self._literal((sub, True), Kind.OBJECT, tracked=chosen.tracked)
                        if (met := self._alternatives.met(base, one)) is not None
                        and not self._emptiness.of_shape(met)
                    ]
                )
                for sub in chosen.branches
            ]
            waiting += reversed(
                self._exactly_one(branches, chosen.branches, Kind.OBJECT, chosen.tracked)
            )
            if len(waiting) + len(done) > MAX_SHAPES:
                raise too_many()
        return self._alternatives.limited(done, tracked=tracked)

    def _exactly_one(
        self, branches: list[list[Shape]], subs: Sequence[SchemaNode], kind: Kind, tracked: bool
    ) -> list[Shape]:
        found: list[Shape] = []
        if self._emptiness.have_a_tag(branches):
            found = [shape for branch in branches for shape in branch]
            return self._alternatives.limited(found, tracked=tracked)
        for at, branch in enumerate(branches):
            kept = branch
            for place, other in enumerate(branches):
                if place == at or not other or self._emptiness.differ_by_tag(kept, other):
                    continue
                kept = self._alternatives.limited(
                    [
                        left
                        for shape in kept
                        for left in self._without(shape, other, (subs[place], False), kind)
                    ],
                    tracked=tracked,
                )
            found += kept
        return self._alternatives.limited(found, tracked=tracked)

    def _without(
        self, shape: Shape, other: list[Shape], negation: Literal, kind: Kind
    ) -> Iterator[Shape]:
        if self._emptiness.disjoint([shape], other):
            yield shape
            return
        for wrong in self._literal(negation, kind):
            met = self._alternatives.met(shape, wrong)
            if isinstance(met, Object):
                met = met.with_plain_some()
                if met.presence is False:
                    continue
            if met is not None and not self._emptiness.of_shape(met):
                yield met
