"""Transcodes streamed Python and JSON literals to JSON. The two may be mixed, as models do:
`'single'` and `"double"` quotes, `True` and `true`, `None` and `null`.
"""

from __future__ import annotations

import json
import re

from formgate.parsers.text.reader import Reader, Steps
from formgate.parsers.text.scanner import MarkerScanner
from formgate.parsers.text.symbols import SYMBOL_RANGE

_MAX_DEPTH = 64
_SPECIAL = re.compile(f"[{SYMBOL_RANGE}]")
_WORD_END = re.compile(rf"[\s,:=(){{}}\[\]\"'{SYMBOL_RANGE}]")
_WORDS = {
    **{"True": "true", "False": "false", "None": "null"},
    **{word: word for word in ("true", "false", "null")},
}
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_CLOSERS = {"[": "]", "(": ")", "{": "}"}
# Python's escapes by the character after the backslash.
_SAME_IN_JSON = '"\\/bfnrtu'
_JSON_OF_ESCAPE = {"'": "'", "a": "\\u0007", "v": "\\u000b", "0": "\\u0000", "\n": ""}
_HEX_DIGITS = {"x": 2, "U": 8}  # number of digits of an escape by code point


def json_inside(text: str) -> str:
    """Escape text for a JSON string, without the quotes."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def stream_literal(reader: Reader, depth: int = 0, *, quote: str = "") -> Steps[bool]:
    """Read one value and emit it as arguments. False: malformed; the valid part is emitted.
    `quote`: symbols that stand around texts, beside the quotes of Python and JSON.
    """
    if depth > _MAX_DEPTH:
        return False
    yield from reader.skip_whitespace()
    if quote and (yield from reader.accept(quote)):
        return (yield from _quoted(reader, quote))
    first = yield from reader.peek()
    if first and first in "\"'":
        return (yield from _string(reader))
    if first in _CLOSERS:
        return (yield from _container(reader, depth, quote))
    word = yield from _word(reader)
    value = _WORDS.get(word, _number(word))
    if value is None:
        return False
    reader.arguments(value)
    reader.commit()
    return True


def _container(reader: Reader, depth: int, quote: str) -> Steps[bool]:
    opening = yield from reader.peek()
    closer = _CLOSERS[opening]
    is_object = opening == "{"
    _pass(reader, 1, "{" if is_object else "[")
    separator = ""
    while True:
        yield from reader.skip_whitespace()
        if (yield from reader.accept(closer)):
            _pass(reader, 0, "}" if is_object else "]")
            return True
        reader.arguments(separator)
        reader.commit()
        if is_object and not (yield from _key(reader, quote)):
            return False
        if not (yield from stream_literal(reader, depth + 1, quote=quote)):
            return False
        yield from reader.skip_whitespace()
        separator = ", "  # emitted with the next value, since a trailing comma is allowed
        if not (yield from reader.accept(",")) and (yield from reader.peek()) != closer:
            return False
        reader.commit()


def _key(reader: Reader, quote: str) -> Steps[bool]:
    first = yield from reader.peek()
    if quote and (yield from reader.accept(quote)):
        if not (yield from _quoted(reader, quote)):
            return False
    elif first and first in "\"'":
        if not (yield from _string(reader)):
            return False
    else:
        word = yield from _word(reader)
        if not word:
            return False
        reader.arguments(json.dumps(word, ensure_ascii=False))
    yield from reader.skip_whitespace()
    if not (yield from reader.accept(":")):
        return False
    _pass(reader, 0, ": ")
    return True


def _string(reader: Reader) -> Steps[bool]:
    quote = yield from reader.peek()
    _pass(reader, 1, '"')
    stop = re.compile(rf"[{quote}\\{SYMBOL_RANGE}]")
    while (yield from reader.more()):
        found = stop.search(reader.text, reader.pos)
        end = found.start() if found else len(reader.text)
        plain = reader.text[reader.pos : end]
        _pass(reader, len(plain), json_inside(plain))
        if found is None:
            continue
        if found[0] == quote:
            _pass(reader, 1, '"')
            return True
        if found[0] != "\\":
            return False
        if not (yield from _escape(reader)):
            return False
    return False


def _quoted(reader: Reader, quote: str) -> Steps[bool]:
    """Read a raw text up to `quote`. Another special token makes it malformed."""
    _pass(reader, 0, '"')
    scanner = MarkerScanner([quote])
    while True:
        found = scanner.find(reader.text, reader.pos)
        end = found[0] if found else scanner.held_from(reader.text, reader.pos)
        special = _SPECIAL.search(reader.text, reader.pos, end)
        plain = reader.text[reader.pos : special.start() if special else end]
        _pass(reader, len(plain), json_inside(plain))
        if special:
            return False
        if found:
            _pass(reader, len(quote), '"')
            return True
        if reader.ended:
            return False
        yield


def _escape(reader: Reader) -> Steps[bool]:
    while len(reader.text) - reader.pos < 2:
        if reader.ended:
            return False
        yield
    kind = reader.text[reader.pos + 1]
    if (digits := _HEX_DIGITS.get(kind)) is not None:
        while len(reader.text) - reader.pos < 2 + digits and not reader.ended:
            yield
        code = reader.text[reader.pos + 2 : reader.pos + 2 + digits]
        if re.fullmatch(f"[0-9a-fA-F]{{{digits}}}", code) and int(code, 16) < 0xD800:
            _pass(reader, 2 + digits, json_inside(chr(int(code, 16))))
            return True
        if re.fullmatch(f"[0-9a-fA-F]{{{digits}}}", code) and 0xE000 <= int(code, 16) <= 0x10FFFF:
            _pass(reader, 2 + digits, chr(int(code, 16)))
            return True
    if kind == "u":
        while len(reader.text) - reader.pos < 6 and not reader.ended:
            yield
        if not re.fullmatch("[0-9a-fA-F]{4}", reader.text[reader.pos + 2 : reader.pos + 6]):
            _pass(reader, 1, "\\\\")  # not an escape in Python, so a plain backslash
            return True
    if kind in _SAME_IN_JSON:
        _pass(reader, 2, "\\" + kind)
    elif kind in _JSON_OF_ESCAPE:
        _pass(reader, 2, _JSON_OF_ESCAPE[kind])
    else:
        _pass(reader, 1, "\\\\")
    return True


def _word(reader: Reader) -> Steps[str]:
    length = 0
    while not (found := _WORD_END.search(reader.text, reader.pos + length)):
        length = len(reader.text) - reader.pos
        if reader.ended:
            break
        yield
    end = found.start() if found else len(reader.text)
    word = reader.text[reader.pos : end]
    reader.pos = end
    return word


def _number(word: str) -> str | None:
    """A JSON number for a Python one, such as `1_000` or `.5`; None if it is none."""
    if _NUMBER.fullmatch(word):
        return word
    try:
        value = float(word.replace("_", ""))
    except ValueError:
        return None
    if value in (float("inf"), float("-inf")) or value != value:
        return None
    return json.dumps(int(value) if value.is_integer() and "." not in word else value)


def _pass(reader: Reader, consumed: int, text: str) -> None:
    """Consume characters and emit `text` as arguments in their place."""
    reader.pos += consumed
    reader.arguments(text)
    reader.commit()
