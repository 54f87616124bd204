"""The stream parser: pieces of one answer in, deltas out, and the only path there is; a complete
answer is its deltas folded. It reads its rules off the same `Format` as the answer tree. Without a
tree to hold the model it is tolerant: what is no call after all is content, and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from formgate.parsers.call_ids import call_id_maker
from formgate.parsers.events import OutputDelta, Piece
from formgate.parsers.formats import Format, ReasoningFormat, ReasoningState, Tool
from formgate.parsers.reader import Reader, Steps
from formgate.parsers.scanner import WHITESPACE, MarkerScanner
from formgate.parsers.symbols import Alphabet, Marker, Written

_NEWLINES = "\r\n"


class OutputParser:
    """One answer. `tools`: those that a call may name; empty, any name is a tool. With
    `tools_enabled` false, nothing is a call. `structured_content`: content, if any, is under a
    grammar of its own, which was given to `answer_grammar`.
    """

    def __init__(
        self,
        format: Format | None,
        reasoning: ReasoningFormat | None,
        *,
        tools_enabled: bool,
        reasoning_state: ReasoningState,
        special_ids: Mapping[str, int],
        make_call_id: Callable[[], str] | None = None,
        tools: Sequence[Tool] = (),
        structured_content: bool = False,
    ) -> None:
        alphabet = Alphabet(special_ids)
        self._format = format
        self._calls_enabled = format is not None and tools_enabled
        self._bare = (
            format is not None
            and tools_enabled
            and format.allows_bare(special_ids, structured_content)
        )
        self._state: ReasoningState = reasoning_state if reasoning is not None else "none"
        self._alphabet = alphabet
        self._marker = self._open = self._close = ""
        self._silent: set[str] = set()  # framing, dropped wherever it comes
        leftovers: set[str] = set()  # dropped only behind a call
        if format is not None:
            self._silent.update(map(alphabet.written, format.silent))
        if format is not None and tools_enabled:
            # Where the marker may be left out, its characters typed out mean nothing.
            if not format.bare or format.has_token(special_ids):
                self._marker = alphabet.written(format.marker)
            leftovers.update(self._markers(format.after))
        if reasoning is not None:
            self._open = alphabet.written(reasoning.open)
            self._close = alphabet.written(reasoning.close)
            if alphabet.is_symbol(self._close):
                self._silent.add(self._close)
        self._reopens = reasoning is not None and reasoning.reopens and self._state != "none"
        reopening = self._open if self._reopens else ""
        self._content_scanner = MarkerScanner(
            filter(None, {self._marker, reopening, *self._silent, *leftovers})
        )
        # A call's marker ends the reasoning too, where it cannot be a quotation of it.
        ends = [self._close]
        if self._calls_enabled and format is not None and format.has_token(special_ids):
            ends.append(self._marker)
        self._reasoning_scanner = MarkerScanner(filter(None, ends))
        self._reader = Reader(
            alphabet,
            {tool.name: tool.schema for tool in tools} if tools else None,
            make_call_id or call_id_maker(format),
        )
        markers = (format.markers() if format else frozenset()) | (
            reasoning.markers() if reasoning else frozenset()
        )
        self._marker_ids = frozenset(
            special_ids[marker.text] for marker in markers if marker.text in special_ids
        )
        self._steps: Iterator[None] = self._answer()
        self._finished = False

    @property
    def marker_ids(self) -> frozenset[int]:
        """The special tokens that `feed` must see; the others say nothing to it."""
        return self._marker_ids

    @property
    def in_reasoning(self) -> bool:
        return self._state == "open"

    def feed(self, pieces: Sequence[Piece]) -> list[OutputDelta]:
        assert not self._finished, "the answer is over"
        self._reader.push(self._alphabet.encode(pieces))
        next(self._steps)
        return self._reader.take_deltas()

    def finish(self) -> list[OutputDelta]:
        """What was held back, as what it turned out to be."""
        self._finished = self._reader.ended = True
        for _ in self._steps:
            raise AssertionError("waits for more after the end")
        return self._reader.take_deltas()

    # -- the regions, in the order of an answer

    def _answer(self) -> Steps[None]:
        reader, format = self._reader, self._format
        if self._state == "open":
            yield from self._reasoning()
        elif self._state == "optional":
            yield from reader.skip_whitespace()
            if (yield from reader.accept(self._open)):
                self._state = "open"
                yield from self._reasoning()
            else:
                reader.pos = reader.mark
        lead = format.content_lead if format is not None else ""
        if lead and (yield from reader.accept(lead)):
            reader.commit()
        if self._bare:
            yield from self._calls()
        yield from self._content()

    def _reasoning(self) -> Steps[None]:
        """From behind the opening marker; the newlines around the text are no part of it."""
        reader = self._reader
        reader.commit()
        yield from self._drop_newlines()
        while True:
            text = reader.text
            found = self._reasoning_scanner.find(text, reader.mark)
            end = found[0] if found else self._reasoning_scanner.held_from(text, reader.mark)
            reader.reasoning(reader.mark + len(text[reader.mark : end].rstrip(_NEWLINES)))
            if found:
                reader.pos = end
                break
            if reader.ended:
                reader.reasoning(len(text))
                return
            reader.pos = len(text)
            yield
        self._state = "closed"
        if found[1] == self._close:
            reader.pos += len(self._close)
        reader.commit()
        yield from self._drop_newlines()

    def _drop_newlines(self) -> Steps[None]:
        reader = self._reader
        while (char := (yield from reader.peek())) and char in _NEWLINES:
            reader.pos += 1
            reader.commit()

    def _content(self) -> Steps[None]:
        """To the end of the answer. Whitespace next to a call separates and says nothing, so it
        is held until what comes next is known."""
        reader, scanner = self._reader, self._content_scanner
        while True:
            text, mark = reader.text, reader.mark
            found = scanner.find(text, mark)
            end = found[0] if found else scanner.held_from(text, mark)
            if self._calls_enabled:
                end = mark + len(text[mark:end].rstrip(WHITESPACE))
            reader.content(end)
            if found:
                reader.pos = found[0] + len(found[1])
                if found[1] == self._marker:
                    yield from self._calls()
                elif found[1] == self._open:
                    self._state = "open"
                    yield from self._reasoning()
                elif found[1] in self._silent or reader.num_calls:
                    reader.commit()
                else:
                    reader.content(reader.pos)
            elif reader.ended:
                if not (reader.num_calls and text[reader.mark :].isspace()):
                    reader.content(len(text))
                return
            else:
                reader.pos = len(text)
                yield

    def _calls(self) -> Steps[None]:
        """From behind the marker to behind the last call. What does not fit is content, and so
        is what was held for it."""
        reader, format = self._reader, self._format
        assert format is not None
        fits = yield from reader.written(format.before)
        while fits and (fits := (yield from self._call(format))):
            reader.commit()
            if format.after and (yield from reader.written(format.after)):
                reader.commit()
                return
            reader.pos = reader.mark
            if format.one_per_marker:
                return
            fits = yield from reader.written(format.between)
        if reader.text[reader.mark : reader.pos].isspace():
            reader.pos = reader.mark
        reader.content(reader.pos)

    def _call(self, format: Format) -> Steps[bool]:
        for part in format.call:
            if isinstance(part, Marker | str):
                fits = yield from self._reader.written((part,))
            else:
                fits = yield from part.read(self._reader)
            if not fits:
                return False
        return True

    def _markers(self, parts: Sequence[Written]) -> list[str]:
        return [self._alphabet.written((part,)) for part in parts if isinstance(part, Marker)]
