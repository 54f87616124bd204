"""Scanners for streamed text: they find markers, however these are split, and the ends of JSON
values. Only here is text held back because it may be the prefix of a marker.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from formgate.parsers.text.symbols import SYMBOL_RANGE

WHITESPACE = " \t\r\n"
_IN_STRING = re.compile(rf'["\\{SYMBOL_RANGE}]')
_STRUCTURE = re.compile(rf'["{{}}\[\]{SYMBOL_RANGE}]')
_SCALAR_END = re.compile(rf"[,\]}}\s{SYMBOL_RANGE}]")
_CLOSERS = {"{": "}", "[": "]"}


class MarkerScanner:
    """Finds the first of several markers; of two at the same position, the longer one."""

    __slots__ = ("_long", "_pattern")

    def __init__(self, markers: Iterable[str]) -> None:
        ordered = sorted(set(markers), key=len, reverse=True)
        assert all(ordered)
        self._long = [marker for marker in ordered if len(marker) > 1]
        # `(?!)` matches nothing: there are no markers.
        self._pattern = re.compile("|".join(map(re.escape, ordered)) or r"(?!)")

    def find(self, text: str, start: int) -> tuple[int, str] | None:
        """(position, marker) of the first marker from `start` on."""
        found = self._pattern.search(text, start)
        return (found.start(), found[0]) if found else None

    def held_from(self, text: str, start: int) -> int:
        """Position of the longest suffix of `text` that is a proper prefix of a marker; len(text)
        if there is none.
        """
        earliest = len(text)
        for marker in self._long:
            first = max(start, len(text) - len(marker) + 1)
            while (first := text.find(marker[0], first, earliest)) >= 0:
                if marker.startswith(text[first:]):
                    earliest = first
                    break
                first += 1
        return earliest


class JsonScanner:
    """Finds the end of one JSON value by its brackets and strings only, so that a slightly
    malformed value still ends where the model meant it to.
    """

    __slots__ = ("_closers", "_escaped", "_in_string", "_scalar", "done", "failed")

    def __init__(self) -> None:
        self._closers: list[str] = []
        self._in_string = False
        self._escaped = False
        self._scalar = False
        self.done = False
        self.failed = False

    def scan(self, text: str, start: int) -> int:
        """The end of the value's text in `text`, from `start` on. A number ends at the character
        after it, so `done` may become true with nothing consumed.
        """
        end = len(text)
        while start < end and not self.done and not self.failed:
            if self._in_string:
                start = self._string(text, start, end)
            elif self._scalar:
                found = _SCALAR_END.search(text, start)
                start = found.start() if found else end
                self.done = found is not None
            elif self._closers:
                start = self._inside(text, start, end)
            else:
                start = self._begin(text, start)
        return start

    def _begin(self, text: str, start: int) -> int:
        first = text[start]
        if first == '"':
            self._in_string = True
        elif first in _CLOSERS:
            self._closers.append(_CLOSERS[first])
        elif first.isalnum() or first == "-":
            self._scalar = True
        else:
            self.failed = True
            return start
        return start + 1

    def _inside(self, text: str, start: int, end: int) -> int:
        found = _STRUCTURE.search(text, start)
        if found is None:
            return end
        at, symbol = found.start(), found[0]
        if symbol == '"':
            self._in_string = True
        elif symbol in _CLOSERS:
            self._closers.append(_CLOSERS[symbol])
        elif symbol == self._closers[-1]:
            self._closers.pop()
            self.done = not self._closers
        else:  # the wrong bracket, or a special token
            self.failed = True
            return at
        return at + 1

    def _string(self, text: str, start: int, end: int) -> int:
        if self._escaped and not SYMBOL_RANGE[0] <= text[start] <= SYMBOL_RANGE[-1]:
            self._escaped = False
            return start + 1
        found = _IN_STRING.search(text, start)
        if found is None:
            return end
        at, symbol = found.start(), found[0]
        if symbol == "\\":
            self._escaped = True
        elif symbol == '"':
            self._in_string = False
            self.done = not self._closers
        else:
            self.failed = True
            return at
        return at + 1
