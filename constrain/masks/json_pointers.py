"""To which value of a JSON text each token belongs, as its JSON Pointer, while the text is being
written.
"""

from __future__ import annotations

from formgate.constrain.errors import pointer_of
from formgate.constrain.masks.json_position import JsonPosition
from formgate.constrain.rules.guard_plan import GuardPlan

_NOTHING_DIFFERS = GuardPlan(())


class JsonPointers:
    """A token belongs to the value in which its last byte stands. A member's name is part of its
    object; so is what stands between members, as what stands between items is of their array.
    """

    def __init__(self) -> None:
        self._position = JsonPosition(_NOTHING_DIFFERS)
        self._between_items = False

    def feed(self, token: bytes) -> str:
        position = self._position
        for byte in token:
            was_in_string = position.in_string
            position.feed(byte)
            if not was_in_string and byte not in b" \t\r\n":
                self._between_items = byte in b"[,"
        containers = position.frames[1:]
        steps = [frame.key if frame.is_object else frame.index for frame in containers]
        if containers:
            last = containers[-1]
            if last.at_key if last.is_object else self._between_items:
                steps.pop()
        return pointer_of(steps)
