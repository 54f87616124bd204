"""Tracks the position of the last byte of a JSON text. The grammar has already accepted the text,
so only siblings and names are compared. Linear in the text.
"""

from __future__ import annotations

import json
from bisect import bisect_left, insort
from typing import Any

from formgate.constrain.errors import pointer_of
from formgate.constrain.rules.guard_plan import GuardPlan

_SPACE = b" \t\n\r"


class Siblings:
    """The elements of one container, which must not be repeated. `dead` holds, sorted, the prefixes
    whose every completion repeats an element.
    """

    __slots__ = ("dead", "values")

    def __init__(self) -> None:
        self.dead: list[bytes] = []
        self.values: set[str] = set()  # semantic keys of the elements that are containers

    def copy(self) -> Siblings:
        new = Siblings()
        new.dead, new.values = self.dead[:], set(self.values)
        return new

    def add_dead(self, text: bytes) -> None:
        at = bisect_left(self.dead, text)
        if at == len(self.dead) or self.dead[at] != text:
            insort(self.dead, text)

    def is_dead(self, text: bytes) -> bool:
        at = bisect_left(self.dead, text)
        return at < len(self.dead) and self.dead[at] == text

    def dead_after(self, prefix: bytes) -> list[bytes]:
        """The shortest texts that make `prefix` dead when they follow it."""
        found: list[bytes] = []
        at = bisect_left(self.dead, prefix)
        while at < len(self.dead) and self.dead[at].startswith(prefix):
            rest = self.dead[at][len(prefix) :]
            if not found or not rest.startswith(found[-1]):
                found.append(rest)
            at += 1
        return found


class Frame:
    """An open container; the first frame is the text itself."""

    __slots__ = (
        *("at_key", "differ", "element", "index", "is_object", "names", "names_shared"),
        *("places", "quoted_key", "siblings"),
    )

    def __init__(self, is_object: bool, places: tuple[int, ...], differ: bool) -> None:
        self.is_object = is_object
        self.places = places
        self.differ = differ
        self.siblings = Siblings()
        self.names: set[bytes] = set()  # of an object so far, as written
        self.names_shared = False
        self.at_key = is_object
        self.quoted_key = b'""'
        self.index = 0
        self.element: int | None = None  # offset of the current item or name, if it must differ

    def copy(self) -> Frame:
        """A copy that shares the siblings, and the names until it adds one."""
        new = Frame(self.is_object, self.places, self.differ)
        new.siblings, new.at_key, new.quoted_key = self.siblings, self.at_key, self.quoted_key
        new.index, new.element = self.index, self.element
        new.names, new.names_shared = self.names, True
        return new

    @property
    def key(self) -> str:
        name: str = json.loads(self.quoted_key)
        return name

    def add_name(self, name: bytes) -> None:
        if self.names_shared:
            self.names, self.names_shared = set(self.names), False
        self.names.add(name)


_VALUE_STARTS = b'{["-0123456789tfn'


class JsonPosition:
    def __init__(self, plan: GuardPlan, places: tuple[int, ...] | None = None) -> None:
        """`places`: those of the text in `plan`; None: the first."""
        self._plan = plan
        # True if the plan has places, so that siblings may have to differ somewhere.
        self.may_differ = bool(plan.places)
        self.text = bytearray()
        if places is None:
            places = (0,) if plan.places else ()
        self.frames = [Frame(False, places, False)]
        self.in_string = False
        self.in_plain_text = False  # in a string, and not after a backslash
        self.begun = False
        self.wrong_name = False  # an object has a name twice
        self._num_differing = 0  # open containers whose elements must differ
        self._string = 0  # offset of the last string
        self._escaped = False
        self.has_escape = False  # the last string has a backslash
        self._rivals: list[bytes] | None = None  # once they are asked for
        self._scalar = False
        self.ended = False

    def copy(self, *, siblings: bool = False) -> JsonPosition:
        """A copy. With `siblings` it can be fed as the original; otherwise it shares the siblings,
        which must not be changed through it.
        """
        new = JsonPosition(self._plan)
        new.text = self.text[:]
        new.frames = [frame.copy() for frame in self.frames]
        if siblings:
            for frame in new.frames:
                frame.siblings = frame.siblings.copy()
                frame.names, frame.names_shared = set(frame.names), False
        new.in_string, new._escaped = self.in_string, self._escaped
        new.in_plain_text, new.has_escape = self.in_plain_text, self.has_escape
        new.begun = self.begun
        new._num_differing = self._num_differing
        new._string, new.wrong_name = self._string, self.wrong_name
        new._scalar, new.ended = self._scalar, self.ended
        return new

    @property
    def differing(self) -> bool:
        """True if the elements of an open container must differ."""
        return self._num_differing > 0

    @property
    def in_name(self) -> bool:
        return self.in_string and self.frames[-1].at_key

    @property
    def name_text(self) -> bytes:
        """The text of the last string so far, without its opening quote."""
        return bytes(self.text[self._string + 1 :])

    @property
    def name_length(self) -> int:
        return len(self.text) - self._string - 1

    def may_begin(self, byte: int) -> bool:
        """True if a JSON text, or white space before it, can begin with this byte."""
        return byte in _VALUE_STARTS or byte in _SPACE

    def feed(self, byte: int) -> Frame | None:
        """Feed a byte. Returns the frame of an element that just ended, if the element must differ
        from its siblings.
        """
        return self.feed_text(bytes((byte,)))[1]

    def feed_text(self, text: bytes) -> tuple[int, Frame | None]:
        """Feed a text up to the end of the JSON text, or of an element that must differ from its
        siblings. Returns the number of bytes fed, and that element's frame.
        """
        start = len(self.text)
        self.text += text
        frame, in_string = self.frames[-1], self.in_string
        for at, byte in enumerate(text, start):
            ended = None
            if in_string:
                if self._escaped:
                    self._escaped = False
                    continue
                if byte == 0x5C:
                    self._escaped = self.has_escape = True
                if byte != 0x22:
                    continue
                in_string = False
                ended = self._name_ended(frame, at + 1) if frame.at_key else self._value_ended()
            elif byte == 0x22:  # "
                in_string, self.has_escape = True, False
                self._string, self._rivals, self.begun = at, None, True
                if frame.differ:
                    self._element_begun(frame, at)
            elif byte == 0x3A:  # :
                frame.at_key = False
            elif byte == 0x2C:  # ,
                ended = self._scalar_ended()
                frame.at_key = frame.is_object
                frame.index += 1
            elif byte in _SPACE:
                ended = self._scalar_ended()
            elif byte in b"[{":
                self.begun = True
                self._element_begun(frame, at)
                frame = self._opened(frame, byte == 0x7B)
            elif byte in b"]}":
                ended = self._scalar_ended()
                if len(self.frames) > 1:  # otherwise it follows a number that is the whole text
                    self._num_differing -= self.frames.pop().differ
                    frame = self.frames[-1]
                    ended = self._value_ended() or ended
            elif not self._scalar:
                self._scalar = self.begun = True
                self._element_begun(frame, at)
            if self.ended or ended is not None:
                del self.text[at + 1 :]
                self.in_string = self.in_plain_text = in_string
                return at + 1 - start, ended
        self.in_string = in_string
        self.in_plain_text = in_string and not self._escaped
        return len(text), None

    def rivals(self) -> list[bytes]:
        """The names of the current object that begin with the current name so far."""
        frame, text = self.frames[-1], self.name_text
        known = frame.names if self._rivals is None else self._rivals
        self._rivals = [name for name in known if name.startswith(text)] if known else []
        return self._rivals

    def element_text(self, frame: Frame, end: int | None = None) -> bytes:
        assert frame.element is not None
        return bytes(self.text[frame.element : end])

    def next_is_alike(self, frame: Frame) -> bool:
        """True if the next element is allowed the same values as the current one: neither has a
        schema of its own (no named member, no `prefixItems` entry).
        """
        places = [self._plan.places[number] for number in frame.places]
        if frame.is_object:
            return not any(frame.key in place.members for place in places)
        return not any(frame.index < len(place.items) for place in places)

    def inside(self, frame: Frame, text: bytes) -> tuple[GuardPlan, tuple[int, ...]] | tuple[()]:
        """The plan of the item of `frame` that just ended and the places of the item in it; empty
        if nothing is guarded in an item `text`."""
        if text[:1] not in (b"[", b"{"):
            return ()
        places = self._plan.item(frame.places, frame.index)
        return (self._plan, places) if places else ()

    @staticmethod
    def _element_begun(frame: Frame, at: int) -> None:
        if frame.differ and frame.at_key == frame.is_object:
            frame.element = at

    def _opened(self, frame: Frame, is_object: bool) -> Frame:
        if len(self.frames) == 1 or not frame.places:
            places = frame.places
        elif frame.is_object:
            places = self._plan.member(frame.places, frame.key)
        else:
            places = self._plan.item(frame.places, frame.index)
        differ = self._plan.names_differ if is_object else self._plan.items_differ
        opened = Frame(is_object, places, differ(places))
        self._num_differing += opened.differ
        self.frames.append(opened)
        return opened

    def _name_ended(self, frame: Frame, end: int) -> Frame | None:
        frame.quoted_key = bytes(self.text[self._string : end])
        name = frame.quoted_key[1:-1]
        self.wrong_name |= name in frame.names
        frame.add_name(name)
        return frame if frame.differ else None

    def _scalar_ended(self) -> Frame | None:
        if not self._scalar:
            return None
        self._scalar = False
        return self._value_ended()

    def _value_ended(self) -> Frame | None:
        frame = self.frames[-1]
        if len(self.frames) == 1:
            self.ended = True
        if frame.differ and not frame.is_object and frame.element is not None:
            return frame
        return None


class JsonPointers:
    """The JSON Pointer (RFC 6901) of the value that each token of a JSON text belongs to: the value
    that contains the token's last byte. A member's name, and the text between members or items,
    belong to the container.
    """

    def __init__(self) -> None:
        self._position = JsonPosition(GuardPlan(()))
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


def semantic_key(text: bytes) -> str:
    """A text that is the same for all values that are equal in JSON Schema."""
    return json.dumps(_numbers_alike(json.loads(text)), sort_keys=True)


def _numbers_alike(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_numbers_alike(item) for item in value]
    if isinstance(value, dict):
        return {name: _numbers_alike(item) for name, item in value.items()}
    return value
