"""Tests whether a conjunction of schemas is empty, that is, has no instance. "Empty" is always
right. "Not empty" may be wrong below a few levels, or if only patterns make strings disjoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from formgate.constrain.algebra.presence import Has, Not, conjuncts, names_in, required_names
from formgate.constrain.algebra.scalars import Numbers, Strings
from formgate.constrain.algebra.shapes import Array, Conjunction, Kind, Object, Shape, meet
from formgate.constrain.errors import SelfReferenceError

_DEPTH = 3  # levels of sub-schemas that are looked into

_FEW = frozenset(("const", "enum"))

ShapesOf = Callable[[Conjunction, Kind], list[Shape]]
KindsOf = Callable[[Conjunction], Sequence[Kind]]


class Emptiness:
    """`spend` charges work to a budget, and may raise."""

    def __init__(
        self, shapes_of: ShapesOf, kinds_of: KindsOf, spend: Callable[[int], None]
    ) -> None:
        self._shapes_of = shapes_of
        self._kinds_of = kinds_of
        self._spend = spend
        # Smallest depth at which a schema was found empty; largest at which it was found non-empty.
        self._empty: dict[Conjunction, int] = {}
        self._not_empty: dict[Conjunction, int] = {}
        # By the object's identity: hashing an object costs more than finding its tags.
        self._tags: dict[int, tuple[Object, dict[str, frozenset[str]]]] = {}
        self._running: set[Conjunction] = set()

    def of(self, schema: Conjunction, depth: int = _DEPTH) -> bool:
        if not schema or depth == 0:
            return False
        if self._not_empty.get(schema, 0) >= depth:
            return False
        if self._empty.get(schema, depth + 1) <= depth:
            return True
        if schema in self._running:
            return False
        self._running.add(schema)
        try:
            empty = all(
                self.of_shape(shape, depth)
                for kind in self._kinds_of(schema)
                for shape in self._shapes_of(schema, kind)
            )
        except SelfReferenceError:
            return False  # a caller is computing it
        finally:
            self._running.discard(schema)
        if empty:
            self._empty[schema] = depth
        else:
            self._not_empty[schema] = depth
        return empty

    def disjoint(self, one: list[Shape], two: list[Shape]) -> bool:
        """True only if no value satisfies both lists of alternatives of one kind."""
        return not any(self._overlap(a, b) for a in one for b in two)

    def have_a_tag(self, branches: list[list[Shape]]) -> bool:
        """True if a member is required everywhere, and has other constants in each branch."""
        objects = [shape for branch in branches for shape in branch]
        if not objects or not isinstance(objects[0], Object):
            return False
        return any(self._is_tag(name, branches) for name in self._tags_of(objects[0]))

    def _is_tag(self, name: str, branches: list[list[Shape]]) -> bool:
        taken: set[str] = set()
        for branch in branches:
            own: set[str] = set()
            for shape in branch:
                assert isinstance(shape, Object)
                constants = self._tags_of(shape).get(name)
                if constants is None:
                    return False
                own |= constants
            if not taken.isdisjoint(own):
                return False
            taken |= own
        return True

    def differ_by_tag(self, one: list[Shape], two: list[Shape]) -> bool:
        """True if tags alone show that the lists are disjoint. Costs no work."""
        return all(self._differ_by_tag(a, b) for a in one for b in two)

    def _overlap(self, one: Shape, two: Shape) -> bool:
        if self._differ_by_tag(one, two):
            return False
        self._spend(1)
        met = meet(one, two)
        return met is not None and not self.of_shape(met)

    def _differ_by_tag(self, one: Shape, two: Shape) -> bool:
        """True if a member that both require has other constants in each."""
        if not isinstance(one, Object) or not isinstance(two, Object):
            return False
        tags, others = self._tags_of(one), self._tags_of(two)
        return any(name in others and tags[name].isdisjoint(others[name]) for name in tags)

    def _tags_of(self, shape: Object) -> dict[str, frozenset[str]]:
        """The required members that must be one of some constant strings, with these strings."""
        known = self._tags.get(id(shape))
        if known is not None:
            return known[1]
        tags: dict[str, frozenset[str]] = {}
        for name in required_names(shape.presence):
            value = shape.member(name)
            if _is_open(value):
                continue
            shapes = {kind: self._shapes_of(value, kind) for kind in self._kinds_of(value)}
            strings = shapes.pop(Kind.STRING, [])
            if any(shapes.values()):
                continue
            constants = [s.values for s in strings if isinstance(s, Strings)]
            if all(values is not None for values in constants):
                tags[name] = frozenset(v for values in constants for v in values or ())
        self._tags[id(shape)] = shape, tags
        return tags

    def of_shape(self, shape: Shape, depth: int = _DEPTH) -> bool:
        match shape:
            case Numbers():
                return shape.is_empty()
            case Array():
                return self._of_array(shape, depth)
            case Object():
                return self._of_object(shape, depth)
        return False

    def _of_array(self, array: Array, depth: int) -> bool:
        if any(self.of(array.item(at), depth - 1) for at in range(min(array.least, 16))):
            return True
        return any(count.least and self.of(count.schema, depth - 1) for count in array.counts)

    def _of_object(self, shape: Object, depth: int) -> bool:
        if shape.presence is True and shape.most is None:
            return False
        needed = required_names(shape.presence)
        if shape.most is not None and len(needed) > shape.most:
            return True
        self._spend(len(needed) * len(shape.members) // 32)
        # Constants first, as most empty alternatives are found by them.
        values = sorted((shape.member(name) for name in sorted(needed)), key=_is_open)
        if any(self.of(value, depth - 1) for value in values):
            return True
        if all(isinstance(part, Has | Not) for part in conjuncts(shape.presence)):
            return False  # no further name is required
        absent = [
            name
            for name in sorted(names_in(shape.presence) - needed)
            if self.of(shape.member(name), depth - 1)
        ]
        return shape.without(absent) is False


def _is_open(schema: Conjunction) -> bool:
    return not any(
        holds and not isinstance(node.schema, bool) and not _FEW.isdisjoint(node.schema)
        for node, holds in schema
    )
