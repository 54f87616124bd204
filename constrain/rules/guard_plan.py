"""Plans where in a JSON text siblings must differ: items under `uniqueItems`, and names of objects
that may run out of names. A plan follows a text into its members and items. If several alternatives
are possible it follows all, so that a guard may demand more than the schema, never less.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from formgate.constrain.algebra.algebra import Algebra
from formgate.constrain.algebra.shapes import Array, Conjunction, Kind, Object, joined
from formgate.constrain.rules.llguidance_schemas import NativeSchemas
from formgate.constrain.rules.open_names import names_may_run_out


@dataclass(frozen=True, slots=True)
class Place:
    """What must differ at one place of a text, and the numbers of the places below."""

    items_differ: bool
    names_differ: bool
    members: dict[str, tuple[int, ...]]
    other_members: tuple[int, ...]
    items: tuple[tuple[int, ...], ...]
    other_items: tuple[int, ...]

    def moved(self, by: int) -> Place:
        """The place with all numbers increased by `by`."""

        def numbers(at: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(number + by for number in at)

        return Place(
            self.items_differ,
            self.names_differ,
            {name: numbers(at) for name, at in self.members.items()},
            numbers(self.other_members),
            tuple(map(numbers, self.items)),
            numbers(self.other_items),
        )

    def beside(self, other: Place) -> Place:
        length = max(len(self.items), len(other.items))
        names = {**self.members, **other.members}
        return Place(
            self.items_differ or other.items_differ,
            self.names_differ or other.names_differ,
            {
                name: self.members.get(name, self.other_members)
                + other.members.get(name, other.other_members)
                for name in names
            },
            self.other_members + other.other_members,
            tuple(
                (self.items[at] if at < len(self.items) else self.other_items)
                + (other.items[at] if at < len(other.items) else other.other_items)
                for at in range(length)
            ),
            self.other_items + other.other_items,
        )


@dataclass(frozen=True, slots=True)
class GuardPlan:
    """The places of a JSON text. Names differ in every object, also in a plan without places."""

    places: tuple[Place, ...]  # the first is that of the whole text

    def beside(self, other: GuardPlan) -> GuardPlan:
        """One plan for texts of either plan: its first place is the union of both first places."""
        if not self.places or not other.places:
            return self if self.places else other
        if self == other:
            return self
        there = [place.moved(1) for place in self.places]
        there += [place.moved(1 + len(self.places)) for place in other.places]
        return GuardPlan((there[0].beside(there[len(self.places)]), *there))

    def items_differ(self, at: Iterable[int]) -> bool:
        return any(self.places[number].items_differ for number in at)

    def names_differ(self, at: Iterable[int]) -> bool:
        return any(self.places[number].names_differ for number in at)

    def member(self, at: Iterable[int], name: str) -> tuple[int, ...]:
        found: set[int] = set()
        for number in at:
            place = self.places[number]
            found.update(place.members.get(name, place.other_members))
        return tuple(sorted(found))

    def item(self, at: Iterable[int], index: int) -> tuple[int, ...]:
        found: set[int] = set()
        for number in at:
            place = self.places[number]
            found.update(place.items[index] if index < len(place.items) else place.other_items)
        return tuple(sorted(found))


def guard_plan(
    algebra: Algebra, schema: Conjunction, natives: NativeSchemas | None = None
) -> GuardPlan | None:
    """The plan of a schema; None if no guard is needed. `natives` need none."""
    plan = _Planner(algebra, natives).plan(schema)
    if any(place.items_differ or place.names_differ for place in plan.places):
        return plan
    return None


class _Planner:
    def __init__(self, algebra: Algebra, natives: NativeSchemas | None) -> None:
        self._algebra = algebra
        self._natives = natives
        self._numbers: dict[Conjunction, int] = {}
        self._waiting: list[Conjunction] = []

    def plan(self, schema: Conjunction) -> GuardPlan:
        self._number(schema)
        # The list grows while it is iterated.
        return GuardPlan(tuple(self._place(waiting) for waiting in self._waiting))

    def _number(self, schema: Conjunction) -> tuple[int, ...]:
        schema = self._algebra.without_aliases(schema)
        if not schema or self._needs_none(schema):
            return ()
        number = self._numbers.get(schema)
        if number is None:
            number = self._numbers[schema] = len(self._waiting)
            self._waiting.append(schema)
        return (number,)

    def _needs_none(self, schema: Conjunction) -> bool:
        natives = self._natives
        return natives is not None and all(
            holds and natives.of(node) is not None for node, holds in schema
        )

    def _place(self, schema: Conjunction) -> Place:
        members: dict[str, set[int]] = {}
        others: set[int] = set()
        items: list[set[int]] = []
        other_items: set[int] = set()
        items_differ = names_differ = False
        for shape in self._algebra.shapes(schema, Kind.ARRAY):
            assert isinstance(shape, Array)
            items_differ |= shape.unique
            wanted = joined(count.schema for count in shape.counts)
            for index in range(shape.prefix_length + 1):
                here = set(self._number(shape.item(index))) | set(self._number(wanted))
                if index == shape.prefix_length:
                    other_items |= here
                elif index < len(items):
                    items[index] |= here
                else:
                    items.append(here)
        for shape in self._algebra.shapes(schema, Kind.OBJECT):
            assert isinstance(shape, Object)
            names_differ = names_differ or names_may_run_out(self._algebra, shape)
            for name in shape.known_names():
                members.setdefault(name, set()).update(self._number(shape.member(name)))
            for group in shape.members:
                for _, value in group.matching:
                    others.update(self._number(value))
                others.update(self._number(group.rest or ()))
        return Place(
            items_differ,
            names_differ,
            {name: tuple(found | others) for name, found in members.items()},
            tuple(others),
            tuple(tuple(found | other_items) for found in items),
            tuple(other_items),
        )
