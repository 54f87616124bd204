"""Reading a stream that has not all come yet. Everything that reads is a generator that yields
when it needs more text, so a parser is written as if the whole text were there, and how the text
was cut cannot matter.

    mark          pos          len(text)
      |  held      |  not read   |
      +------------+-------------+

What is before `mark` is gone for good: it has become deltas. What is between `mark` and `pos` has
been read as part of a call that is not certain yet; should it turn out malformed, it is content.
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
    """The text so far, and the deltas made of it.

    Positions move when read text is dropped (`push`), so no generator may keep one in a variable
    of its own while it yields.
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
        self.cut = False  # ended by a limit: what is not whole goes on, and is not malformed
        self.num_calls = 0
        self.schema: Any = None  # of the arguments of the call that is being read
        self._schemas = schemas  # by tool name; None: any name is a tool
        self._new_call_id = new_call_id
        self._deltas: list[OutputDelta] = []
        self._used_ids: set[str] = set()

    # -- text in, deltas out

    def push(self, symbols: str) -> None:
        self.text = self.text[self.mark :] + symbols
        self.pos -= self.mark
        self.mark = 0

    def take_deltas(self) -> list[OutputDelta]:
        deltas, self._deltas = self._deltas, []
        return deltas

    def commit(self) -> None:
        """What has been read needs no second look."""
        self.mark = self.pos

    def drop(self) -> None:
        """What is left says nothing that could be told."""
        self.mark = self.pos = len(self.text)

    def content(self, end: int) -> None:
        """Everything held, up to `end`, is content."""
        self._say(ContentDelta, end)

    def reasoning(self, end: int) -> None:
        self._say(ReasoningDelta, end)

    def start_call(self, name: str, call_id: str | None = None) -> bool:
        """False: there is no such tool."""
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
        """More of the arguments of the call started last."""
        if not text:
            return
        last = self._deltas[-1] if self._deltas else None
        if isinstance(last, ToolCallArguments):
            self._deltas[-1] = ToolCallArguments(last.index, last.text + text)
        else:
            self._deltas.append(ToolCallArguments(self.num_calls - 1, text))

    def _say(self, kind: type[ContentDelta] | type[ReasoningDelta], end: int) -> None:
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
        """Waits until there is a character to read; False at the end of the stream."""
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
        """Consumes `word` whole, or nothing of it."""
        while len(self.text) - self.pos < len(word):
            if self.ended or not word.startswith(self.text[self.pos :]):
                return False
            yield
        if not self.text.startswith(word, self.pos):
            return False
        self.pos += len(word)
        return True

    def written(self, parts: tuple[Written, ...]) -> Steps[bool]:
        """Literals, whatever the whitespace between their words; on a mismatch, what did match is
        consumed."""
        for part in parts:
            words = part.split() if isinstance(part, str) else [self.alphabet.written((part,))]
            for word in words:
                yield from self.skip_whitespace()
                if not (yield from self.accept(word)):
                    return False
        return True

    def name(self) -> Steps[str]:
        """A tool's name, with nothing around it: ends before what cannot be part of one. Empty
        where a limit has cut it: what is there may be the name of another tool."""
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
        """The text of one JSON value, held until it is whole; None: it is none."""
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
        """The value of one JSON string; None: it is none, or has `escapes` that it may not have."""
        if (yield from self.peek()) != '"':
            return None
        quoted = yield from self.json_text()
        if quoted is None or (not escapes and "\\" in quoted):
            return None
        return unquoted(quoted)

    def stream_json(self) -> Steps[bool]:
        """One JSON value, passed on as arguments while it comes."""
        first = yield from self.peek()
        if first not in ("{", "["):
            return (yield from self._stream_odd_json())
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

    def _stream_odd_json(self) -> Steps[bool]:
        """Arguments that are no object: some models quote the object once more, or write null."""
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
    """The string that a JSON string stands for; None if it is not one. Raw control characters
    are let through, as models write them."""
    try:
        value = json.loads(quoted, strict=False)
    except ValueError:
        return None
    # A lone surrogate escape is legal JSON and no text; it must not pass for a special token.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None
