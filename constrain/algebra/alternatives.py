"""Unions and products of lists of alternatives, and how much work they may take together. The work
is counted, not timed: a schema is refused on every machine or on none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from formgate.constrain.algebra.presence import Any, Has, Not, any_of
from formgate.constrain.algebra.shapes import TOP, Kind, LazyShapes, Object, Shape, meet
from formgate.constrain.errors import ConstraintError, Unplaced

MAX_SHAPES = 4_000  # alternatives of one schema for one kind of value
MAX_WORK = 20_000  # pairs of alternatives that are looked at: about half a second
MANY_PAIRS = 12  # of which those that allow nothing are left out
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


class Alternatives:
    """Raises Unplaced for what is too much."""

    def __init__(self, is_empty: Callable[[Shape], bool]) -> None:
        """`is_empty` tells at little cost that an alternative allows nothing, and may miss it."""
        self._is_empty = is_empty
        self._work = 0
        self._refusal: ConstraintError | None = None

    def reset_budget(self) -> None:
        """Forget the work that has been done."""
        self._work = 0
        self._refusal = None

    @property
    def overworked(self) -> bool:
        return self._work > MAX_WORK

    def refuse_with(self, error: ConstraintError) -> None:
        """What is raised from now on: the first place where the work was too much is the one that
        is named.
        """
        self._refusal = self._refusal or error

    # `tracked`: for `unevaluated*`, a way that another allows already may still evaluate more.

    def union(self, ways: Iterable[LazyShapes], *, tracked: bool = False) -> list[Shape]:
        return self.limited([shape for way in ways for shape in way()], tracked=tracked)

    def product(
        self, factors: Iterable[LazyShapes], kind: Kind, *, tracked: bool = False
    ) -> list[Shape]:
        product: list[Shape] = [TOP[kind]]
        for factor in factors:
            if not product:
                break
            alternatives = factor()
            if len(product) * len(alternatives) > 20 * MAX_SHAPES:
                raise too_many()
            if product == [TOP[kind]]:
                product = alternatives
                continue
            pairs = [met for one in product for two in alternatives if (met := self.met(one, two))]
            if len(pairs) > MANY_PAIRS:
                # Conditions on one member leave one way for each of its constants, not all subsets.
                pairs = [met for met in pairs if not self._is_empty(met)]
            product = self.limited(pairs, tracked=tracked)
        return product

    def met(self, one: Shape, two: Shape) -> Shape | None:
        self.spend(1)
        return meet(one, two)

    def spend(self, work: int) -> None:
        self._work += work
        if self._work > MAX_WORK:
            raise self._refusal or Unplaced(
                f"its alternatives take too long to work out. {_FEWER}",
                keywords=_BRANCHING,
                code="schema_too_complex",
            )

    def limited(self, shapes: list[Shape], *, tracked: bool = False) -> list[Shape]:
        """Each alternative once."""
        if len(shapes) > 1:
            shapes = list(dict.fromkeys(shapes))
            if not tracked:
                shapes = _without_special_cases(shapes)
        if len(shapes) > MAX_SHAPES:
            raise too_many()
        return shapes


def _without_special_cases(shapes: list[Shape]) -> list[Shape]:
    """Without the objects that another alternative allows already."""
    if len(shapes) > MOST_COMPARED or not isinstance(shapes[0], Object):
        return shapes
    objects = [shape for shape in shapes if isinstance(shape, Object)]
    said = [thing.said for thing in objects]
    return [
        one
        for at, one in enumerate(objects)
        if not any(
            said[place] <= said[at] and other.covers(one)
            for place, other in enumerate(objects)
            if place != at
        )
    ]


def with_absent_members(shapes: list[Shape]) -> list[Shape]:
    """Where a member may be absent in one alternative and of some value in another, the two are
    one: that value, if it is there. So the negation of a required member's schema is one.
    """
    plain = next(
        (s for s in shapes if isinstance(s, Object) and s == Object(presence=s.presence)), None
    )
    if plain is None or plain.presence is True:
        return shapes
    absent = plain.presence.parts if isinstance(plain.presence, Any) else {plain.presence}
    covered = set()
    found: list[Shape] = []
    for shape in shapes:
        if (
            isinstance(shape, Object)
            and isinstance(shape.presence, Has)
            and Not(shape.presence) in absent
            and len(shape.members) == 1
            and shape.members[0].speaks_of_only(shape.presence.name)
            and shape == Object(shape.members, shape.presence)
        ):
            covered.add(Not(shape.presence))
            shape = Object(shape.members)
        found.append(shape)
    if not covered:
        return shapes
    rest = any_of(*(part for part in absent if part not in covered))
    found.remove(plain)
    return found if rest is False else [*found, Object(presence=rest)]


def too_many() -> Unplaced:
    return Unplaced(
        f"there are more than {MAX_SHAPES} ways through it and what is beside it. {_FEWER}",
        keywords=_BRANCHING,
        code="schema_too_complex",
    )
