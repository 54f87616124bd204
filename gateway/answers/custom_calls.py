"""Extracts a custom tool's input from its call's JSON arguments, an object with one string named
"input". Arguments and text are streamed in pieces.
"""

from __future__ import annotations

import json
import re

_OPENING = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_HELD = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?$")
_HIGH = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u[0-9a-fA-F]{0,3})?)?$")
_END = re.compile(r'(?:[^"\\]|\\.)*?"', re.DOTALL)


class InputText:
    """Reads the input of one call from its streamed arguments."""

    __slots__ = ("_ended", "_opened", "_rest")

    def __init__(self) -> None:
        self._rest = ""
        self._opened = self._ended = False

    def feed(self, arguments: str) -> str:
        """The new part of the input. An incomplete escape is held back."""
        if self._ended:
            return ""
        self._rest += arguments
        if not self._opened:
            opening = _OPENING.match(self._rest)
            if opening is None:
                return ""
            self._opened = True
            self._rest = self._rest[opening.end() :]
        if (end := _END.match(self._rest)) is not None:
            self._ended = True
            text, self._rest = self._rest[: end.end() - 1], ""
        else:
            held = _incomplete(self._rest)
            text, self._rest = self._rest[:held], self._rest[held:]
        return _plain(text)


def input_text(arguments: str) -> str:
    return InputText().feed(arguments)


def _incomplete(text: str) -> int:
    """Offset of an incomplete escape or surrogate pair at the end, or the text's length."""
    last = text.rfind("\\", max(0, len(text) - 12))
    if last < 0:
        return len(text)
    for pattern in (_HIGH, _HELD):
        found = pattern.search(text, max(0, len(text) - 12))
        if found is not None and _is_escape(text, found.start()):
            return found.start()
    return len(text)


def _is_escape(text: str, at: int) -> bool:
    """True if the backslash at `at` is not escaped itself."""
    before = text[:at]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 0


def _plain(text: str) -> str:
    if "\\" not in text:
        return text
    plain: str = json.loads(f'"{text}"', strict=False)
    return plain
