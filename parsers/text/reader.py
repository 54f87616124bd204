"""Incremental reading of a stream. Every reading function is a generator that yields when it needs
more text. A parser is therefore written as if the whole text were there, and its result does not
depend on how the text was split.

    mark          pos          len(text)
      |  held      |  not read   |
      +------------+-------------+

Text before `mark` has been emitted as deltas and is dropped. Text between `mark` and `pos` has been
read as part of a possible call; if the call is malformed, the text becomes content.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar

from formgate.parsers.text.events import (
    ContentDelta,
    OutputDelta,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallStart,
)
from formgate.parsers.text.scanner import WHITESPACE, JsonScanner
from formgate.parsers.text.symbols import Alphabet, Written

T = TypeVar("T")
Steps = Generator[None, None, T]

_NOT_WHITESPACE = re.compile(r"[^ \t\r\n]")
_NOT_NAME = re.compile(r"[^A-Za-z0-9_.\-]")


class Reader:
    """The text that is not emitted yet, and the deltas that are not taken yet.

    `push` drops read text and shifts positions, so a generator must not keep a position in a local
    variable across a yield.
    """

    def __init__(
        self,
        alphabet: Alphabet,
        schemas: Mapping[str, Any] | None,
        new_call_id: Callable[[], str],
    ) -> None:
        self.alphabet = alphabet
        self.text = ""
        self.pos = 0
        self.mark = 0
        self.ended = False
        self.cut = False  # ended by a length limit: an incomplete call is not malformed
        self.num_calls = 0
        self.schema: Any = None  # of the current call's arguments
        self._schemas = schemas  # by tool name; None: any name is a tool
        self._new_call_id = new_call_id
        self._deltas: list[OutputDelta] = []
        self._used_ids: set[str] = set()

    # -- text in, deltas out

    def push(self, symbols: str) -> None:
        """Append text, and drop the text before `mark`."""
        self.text = self.text[self.mark :] + symbols
        self.pos -= self.mark
        self.mark = 0

    def take_deltas(self) -> list[OutputDelta]:
        """The deltas since the last call."""
        deltas, self._deltas = self._deltas, []
        return deltas

    def commit(self) -> None:
        """Drop the text that has been read; it cannot become content any more."""
        self.mark = self.pos

    def drop(self) -> None:
        """Drop all remaining text without a delta."""
        self.mark = self.pos = len(self.text)

    def content(self, end: int) -> None:
        """Emit the text from `mark` to `end` as content."""
        self._emit_text(ContentDelta, end)

    def reasoning(self, end: int) -> None:
        """Emit the text from `mark` to `end` as reasoning."""
        self._emit_text(ReasoningDelta, end)

    def start_call(self, name: str, call_id: str | None = None) -> bool:
        """Emit the start of a call. False: there is no such tool. A `call_id` that was used before
        is replaced by a new one.
        """
        if self._schemas is not None:
            if name not in self._schemas:
                return False
            self.schema = self._schemas[name]
        elif not name:
            return False
        else:
            self.schema = None
        if call_id is None or call_id in self._used_ids:
            call_id = self._new_call_id()
        self._used_ids.add(call_id)
        self._deltas.append(ToolCallStart(self.num_calls, name, call_id))
        self.num_calls += 1
        self.commit()
        return True

    def arguments(self, text: str) -> None:
        """Emit JSON text as arguments of the current call."""
        if not text:
            return
        last = self._deltas[-1] if self._deltas else None
        if isinstance(last, ToolCallArguments):
            self._deltas[-1] = ToolCallArguments(last.index, last.text + text)
        else:
            self._deltas.append(ToolCallArguments(self.num_calls - 1, text))

    def _emit_text(self, kind: type[ContentDelta] | type[ReasoningDelta], end: int) -> None:
        if end > self.mark:
            text = self.alphabet.decode(self.text[self.mark : end])
            last = self._deltas[-1] if self._deltas else None
            if isinstance(last, kind):
                self._deltas[-1] = kind(last.text + text)
            else:
                self._deltas.append(kind(text))
        self.mark = end
        self.pos = max(self.pos, end)

    # -- reading

    def more(self) -> Steps[bool]:
        """Wait for a character to read. False at the end of the stream."""
        while self.pos >= len(self.text):
            if self.ended:
                return False
            yield
        return True

    def peek(self) -> Steps[str]:
        """The next character; empty at the end of the stream."""
        more = yield from self.more()
        return self.text[self.pos] if more else ""

    def skip_whitespace(self) -> Steps[bool]:
        """False at the end of the stream."""
        while (yield from self.more()):
            if found := _NOT_WHITESPACE.search(self.text, self.pos):
                self.pos = found.start()
                return True
            self.pos = len(self.text)
        return False

    def accept(self, word: str) -> Steps[bool]:
        """Consume `word` if it comes next. False: nothing is consumed."""
        while len(self.text) - self.pos < len(word):
            if self.ended or not word.startswith(self.text[self.pos :]):
                return False
            yield
        if not self.text.startswith(word, self.pos):
            return False
        self.pos += len(word)
        return True

    def accept_literals(self, parts: tuple[Written, ...]) -> Steps[bool]:
        """Consume literals, with any whitespace between their words. False: mismatch; the words
        before it are consumed.
        """
        for part in parts:
            if isinstance(part, str):
                words = part.split()
            else:
                words = [self.alphabet.encode_literals((part,))]
            for word in words:
                yield from self.skip_whitespace()
                if not (yield from self.accept(word)):
                    return False
        return True

    def name(self) -> Steps[str]:
        """The longest run of characters that a tool's name may have. Empty if a length limit cut
        the name, because its prefix may be the name of another tool.
        """
        length = 0
        while not (found := _NOT_NAME.search(self.text, self.pos + length)):
            length = len(self.text) - self.pos
            if self.cut:
                return ""
            if self.ended:
                break
            yield
        end = found.start() if found else len(self.text)
        name = self.text[self.pos : end]
        self.pos = end
        return name

    def json_text(self) -> Steps[str | None]:
        """The text of one JSON value, once it is complete; None if it is malformed."""
        scanner = JsonScanner()
        length = 0
        while not scanner.done:
            end = scanner.scan(self.text, self.pos + length)
            length = end - self.pos
            if scanner.failed or (self.ended and not scanner.done):
                self.pos = end
                return None
            if not scanner.done:
                yield
        value = self.text[self.pos : self.pos + length]
        self.pos += length
        return value

    def json_string(self, *, escapes: bool = True) -> Steps[str | None]:
        """The value of one JSON string; None if malformed, or if it has escapes but may not."""
        if (yield from self.peek()) != '"':
            return None
        quoted = yield from self.json_text()
        if quoted is None or (not escapes and "\\" in quoted):
            return None
        return unquoted(quoted)

    def stream_json(self) -> Steps[bool]:
        """Read one JSON value and emit it as arguments while it arrives. False: malformed."""
        first = yield from self.peek()
        if first not in ("{", "["):
            return (yield from self._stream_non_object())
        scanner = JsonScanner()
        while not scanner.done:
            if not (yield from self.more()):
                return False
            end = scanner.scan(self.text, self.pos)
            self.arguments(self.text[self.pos : end])
            self.pos = end
            self.commit()
            if scanner.failed:
                return False
        return True

    def _stream_non_object(self) -> Steps[bool]:
        """Read arguments that are no object: some models write it as a JSON string, or null."""
        value = yield from self.json_text()
        if value is None:
            return False
        inner = unquoted(value) if value[0] == '"' else None
        if inner is not None and inner.lstrip(WHITESPACE).startswith("{"):
            value = inner.strip(WHITESPACE)
        self.arguments("{}" if value in ("null", '""') else value)
        self.commit()
        return True


def unquoted(quoted: str) -> str | None:
    """The value of a JSON string; None if it is not one. Raw control characters are allowed,
    because models write them.
    """
    try:
        value = json.loads(quoted, strict=False)
    except ValueError:
        return None
    # An escaped lone surrogate is valid JSON, but must not be taken for a special token.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None
