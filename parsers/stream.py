"""The stream parser: pieces of one answer in, deltas out, and the only path there is; a complete
answer is its deltas folded. It reads its rules off the same `Format` as the answer tree. Without a
tree to hold the model it is tolerant: what is no call after all is content, and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from formgate.parsers.families.call_ids import call_id_maker
from formgate.parsers.formats.format import Format, ReasoningFormat, ReasoningState, Tool
from formgate.parsers.formats.layout import Layout
from formgate.parsers.text.events import OutputDelta, Piece
from formgate.parsers.text.reader import Reader, Steps
from formgate.parsers.text.scanner import WHITESPACE
from formgate.parsers.text.symbols import Marker

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
        self._layout = Layout.of(
            format,
            reasoning,
            reasoning_state,
            special_ids,
            tools_enabled=tools_enabled,
            structured_content=structured_content,
        )
        self._structured = structured_content
        self._lead = format.content_lead if format is not None else ""
        self._state: ReasoningState = reasoning_state if reasoning is not None else "none"
        self._reader = Reader(
            self._layout.alphabet,
            {tool.name: tool.schema for tool in tools} if tools else None,
            make_call_id or call_id_maker(format),
        )
        self._steps: Iterator[None] = self._answer()
        self._finished = False

    @property
    def marker_ids(self) -> frozenset[int]:
        """The special tokens that `feed` must see; the others say nothing to it."""
        return self._layout.marker_ids

    @property
    def in_reasoning(self) -> bool:
        return self._state == "open"

    def feed(self, pieces: Sequence[Piece]) -> list[OutputDelta]:
        assert not self._finished, "the answer is over"
        self._reader.push(self._layout.alphabet.encode(pieces))
        next(self._steps)
        return self._reader.take_deltas()

    def finish(self, *, cut: bool = False) -> list[OutputDelta]:
        """What was held back, as what it turned out to be. `cut`: by a limit, so that a call which
        is not whole is no text either."""
        self._finished = self._reader.ended = True
        self._reader.cut = cut
        for _ in self._steps:
            raise AssertionError("waits for more after the end")
        return self._reader.take_deltas()

    # -- the regions, in the order of an answer

    def _answer(self) -> Steps[None]:
        reader, layout = self._reader, self._layout
        if self._state == "open":
            yield from self._reasoning()
        elif self._state == "optional":
            yield from reader.skip_whitespace()
            if (yield from reader.accept(layout.opening)):
                self._state = "open"
                yield from self._reasoning()
            else:
                reader.pos = reader.mark
        if self._lead and (yield from reader.accept(self._lead)):
            reader.commit()
        if layout.bare:
            yield from self._calls(marked=False)
        yield from self._header()
        yield from self._content()

    def _reasoning(self) -> Steps[None]:
        """From behind the opening marker; the newlines around the text are no part of it."""
        reader, scanner = self._reader, self._layout.reasoning_scanner
        reader.commit()
        yield from self._drop_newlines()
        while True:
            text = reader.text
            found = scanner.find(text, reader.mark)
            end = found[0] if found else scanner.held_from(text, reader.mark)
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
        if found[1] == self._layout.closing:
            reader.pos += len(found[1])
        reader.commit()
        yield from self._drop_newlines()

    def _drop_newlines(self) -> Steps[None]:
        reader = self._reader
        while (char := (yield from reader.peek())) and char in _NEWLINES:
            reader.pos += 1
            reader.commit()

    def _content(self) -> Steps[None]:
        """To the end of the answer. Whitespace next to a call separates and says nothing, so it
        is held until what comes next is known. In content that is under a grammar, the characters
        of a marker are what they are."""
        reader, layout = self._reader, self._layout
        scanner = layout.content_scanner
        begun = False
        while True:
            text, mark = reader.text, reader.mark
            found = scanner.find(text, mark)
            end = found[0] if found else scanner.held_from(text, mark)
            if layout.calls is not None:
                end = mark + len(text[mark:end].rstrip(WHITESPACE))
            begun = begun or not (end == mark or text[mark:end].isspace())
            reader.content(end)
            if found:
                reader.pos = found[0] + len(found[1])
                if begun and self._structured and not layout.alphabet.begins_with_token(found[1]):
                    reader.content(reader.pos)
                elif found[1] in layout.markers:
                    yield from self._calls(marked=True)
                elif found[1] == layout.opening:
                    self._state = "open"
                    yield from self._reasoning()
                elif found[1] in layout.silent or reader.num_calls:
                    reader.commit()
                    if found[1] == layout.glue:
                        yield from self._header()
                else:
                    reader.content(reader.pos)
            elif reader.ended:
                if reader.cut and reader.num_calls and not text[mark:end].strip():
                    reader.drop()  # the beginning of another call's marker, at most
                elif not (reader.num_calls and text[reader.mark :].isspace()):
                    reader.content(len(text))
                return
            else:
                reader.pos = len(text)
                yield

    def _header(self) -> Steps[None]:
        """A call whose marker only the head of a message may hold, if there is one here."""
        marker = self._layout.header_marker
        if marker and (yield from self._reader.accept(marker)):
            yield from self._calls(marked=True)

    def _calls(self, *, marked: bool) -> Steps[None]:
        """From behind the marker, if one was there, to behind the last call. What does not fit is
        content, and so is what was held for it."""
        reader, format = self._reader, self._layout.calls
        assert format is not None
        fits = yield from reader.written(format.before)
        while fits and (fits := (yield from self._call(format))):
            reader.commit()
            if format.after and (yield from reader.written(format.after)):
                reader.commit()
                return
            if reader.cut:
                reader.drop()
                return
            reader.pos = reader.mark
            if format.one_per_marker:
                return
            # Models write other separators too, or none: what follows tells whether it is a call.
            yield from reader.written(format.between)
        if reader.cut and (marked or reader.num_calls):
            reader.drop()
            return
        # The whitespace in front of what does not fit may still stand before another call.
        held = reader.text[reader.mark : reader.pos].rstrip(WHITESPACE)
        reader.pos = reader.mark + len(held)
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
