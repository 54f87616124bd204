"""Whether nothing at all satisfies some schemas together. The answer "empty" is always right; the
answer "not empty" may be wrong where strings are told apart by patterns alone.
"""

from __future__ import annotations

from collections.abc import Callable

from formgate.constrain.errors import SelfReferenceError
from formgate.constrain.presence import demands
from formgate.constrain.scalars import Numbers
from formgate.constrain.shapes import Array, Conjunction, Kind, Object, Shape, meet

_DEPTH = 3  # schemas inside schemas that are looked into

ShapesOf = Callable[[Conjunction, Kind], list[Shape]]


class Emptiness:
    def __init__(self, shapes_of: ShapesOf) -> None:
        self._shapes_of = shapes_of
        self._known: dict[tuple[Conjunction, int], bool] = {}
        self._running: set[Conjunction] = set()

    def of(self, schema: Conjunction, depth: int = _DEPTH) -> bool:
        if not schema or depth == 0:
            return False
        key = (schema, depth)
        known = self._known.get(key)
        if known is not None:
            return known
        if schema in self._running:
            return False
        self._running.add(schema)
        try:
            empty = all(
                self.of_shape(shape, depth)
                for kind in Kind
                for shape in self._shapes_of(schema, kind)
            )
        except SelfReferenceError:
            return False  # it is being worked out
        finally:
            self._running.discard(schema)
        self._known[key] = empty
        return empty

    def apart(self, one: list[Shape], two: list[Shape]) -> bool:
        """Whether no value is in both lists of alternatives of one kind."""
        return not any(
            (met := meet(a, b)) is not None and not self.of_shape(met, _DEPTH)
            for a in one
            for b in two
        )

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

    def _of_object(self, thing: Object, depth: int) -> bool:
        demanded = [name for name in thing.known_names() if demands(thing.presence, name)]
        if thing.most is not None and len(demanded) > thing.most:
            return True
        if any(self.of(thing.member(name), depth - 1) for name in demanded):
            return True
        if thing.presence is True or isinstance(thing.presence, bool):
            return False
        absent = [
            name
            for name in thing.known_names()
            if name not in demanded and self.of(thing.member(name), depth - 1)
        ]
        return thing.without(absent) is False
