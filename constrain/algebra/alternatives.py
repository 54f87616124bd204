"""Unions and products of lists of alternatives, under one budget of work. The work is counted, not
timed, so that a schema is refused on every machine or on none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from formgate.constrain.algebra.presence import Any, Has, Not, any_of
from formgate.constrain.algebra.shapes import TOP, Kind, LazyShapes, Object, Shape, meet
from formgate.constrain.errors import ConstraintError, Unplaced

MAX_SHAPES = 4_000  # alternatives of one schema for one kind of value
MAX_WORK = 20_000  # pairs of alternatives: about half a second
MANY_PAIRS = 12  # size from which a product is filtered for empty alternatives
MOST_COMPARED = 60  # size up to which alternatives are compared pairwise


# Keywords that make alternatives, the likeliest to make many first.
_BRANCHING = (
    *("oneOf", "anyOf", "not", "if", "allOf", "dependentSchemas", "dependencies", "enum"),
    *("unevaluatedProperties", "unevaluatedItems", "type"),
)
_FEWER = (
    "Write fewer branches, or give each a `required` member with a `const` of its own, which "
    "distinguishes them"
)


class Alternatives:
    """Raises Unplaced beyond `MAX_SHAPES` alternatives or `MAX_WORK` pairs."""

    def __init__(self, is_empty: Callable[[Shape], bool]) -> None:
        """`is_empty` is a cheap test that an alternative allows no value; False may be wrong."""
        self._is_empty = is_empty
        self._work = 0
        self._refusal: ConstraintError | None = None

    def reset_budget(self) -> None:
        """Reset the work budget."""
        self._work = 0
        self._refusal = None

    @property
    def overworked(self) -> bool:
        return self._work > MAX_WORK

    def refuse_with(self, error: ConstraintError) -> None:
        """Raise `error` whenever the budget is exceeded, so that the first place is named."""
        self._refusal = self._refusal or error

    # `tracked`: keep an alternative that another one covers, as it may evaluate more.

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
                # Conditions on one member then leave one alternative per constant, not per subset.
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
                f"its alternatives take too long to compute. {_FEWER}",
                keywords=_BRANCHING,
                code="schema_too_complex",
            )

    def limited(self, shapes: list[Shape], *, tracked: bool = False) -> list[Shape]:
        """The alternatives without duplicates. Raises Unplaced if they are too many."""
        if len(shapes) > 1:
            shapes = list(dict.fromkeys(shapes))
            if not tracked:
                shapes = _without_special_cases(shapes)
        if len(shapes) > MAX_SHAPES:
            raise too_many()
        return shapes


def _without_special_cases(shapes: list[Shape]) -> list[Shape]:
    """Drop objects that another alternative covers."""
    if len(shapes) > MOST_COMPARED or not isinstance(shapes[0], Object):
        return shapes
    objects = [shape for shape in shapes if isinstance(shape, Object)]
    asserted = [shape.assertions for shape in objects]
    return [
        one
        for at, one in enumerate(objects)
        if not any(
            asserted[place] <= asserted[at] and other.covers(one)
            for place, other in enumerate(objects)
            if place != at
        )
    ]


def with_absent_members(shapes: list[Shape]) -> list[Shape]:
    """Merge an alternative in which a member is absent with one in which it has some value: the
    member has that value if it is present. The negation of a required member becomes one shape.
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
        f"it has more than {MAX_SHAPES} alternatives with the keywords beside it. {_FEWER}",
        keywords=_BRANCHING,
        code="schema_too_complex",
    )
