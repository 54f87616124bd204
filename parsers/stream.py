"""The stream parser: pieces of one answer in, deltas out. Complete answers use it too, as the fold
of their deltas. It follows the same `Format` as the answer tree. An answer without a mask may be
malformed: a malformed call becomes content, and no text is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from formgate.parsers.families.call_ids import call_id_maker
from formgate.parsers.formats.format import Format, ReasoningFormat, ReasoningState, Tool
from formgate.parsers.formats.stream_markers import StreamMarkers
from formgate.parsers.text.events import OutputDelta, Piece
from formgate.parsers.text.reader import Reader, Steps
from formgate.parsers.text.scanner import WHITESPACE
from formgate.parsers.text.symbols import Marker

_NEWLINES = "\r\n"


class OutputParser:
    """Parses one answer. `tools`: the tools that a call may name; empty: any name is accepted.
    `tools_enabled`: false: all calls are content. `structured_content`: the content has its own
    grammar, which was passed to `answer_grammar`.
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
        self._markers = StreamMarkers.of(
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
            self._markers.alphabet,
            {tool.name: tool.schema for tool in tools} if tools else None,
            make_call_id or call_id_maker(format),
        )
        self._steps: Iterator[None] = self._answer()
        self._finished = False

    @property
    def marker_ids(self) -> frozenset[int]:
        """The special tokens that `feed` must get as pieces of their own; it ignores the others."""
        return self._markers.marker_ids

    @property
    def in_reasoning(self) -> bool:
        return self._state == "open"

    def feed(self, pieces: Sequence[Piece]) -> list[OutputDelta]:
        """The deltas of new pieces. The prefix of a possible marker or call is held back."""
        assert not self._finished, "the answer is over"
        self._reader.push(self._markers.alphabet.encode(pieces))
        next(self._steps)
        return self._reader.take_deltas()

    def finish(self, *, cut: bool = False) -> list[OutputDelta]:
        """The deltas of the text held back. `cut`: the answer ended at a length limit, so an
        incomplete call is not turned into content.
        """
        self._finished = self._reader.ended = True
        self._reader.cut = cut
        for _ in self._steps:
            raise AssertionError("waits for more after the end")
        return self._reader.take_deltas()

    # -- the regions, in the order of an answer

    def _answer(self) -> Steps[None]:
        reader, markers = self._reader, self._markers
        if self._state == "open":
            yield from self._reasoning()
        elif self._state == "optional":
            yield from reader.skip_whitespace()
            if (yield from reader.accept(markers.opening)):
                self._state = "open"
                yield from self._reasoning()
            else:
                reader.pos = reader.mark
        if self._lead and (yield from reader.accept(self._lead)):
            reader.commit()
        if markers.bare:
            yield from self._calls(marked=False)
        yield from self._header()
        yield from self._content()

    def _reasoning(self) -> Steps[None]:
        """Read reasoning after its opening marker, without the newlines around it."""
        reader, scanner = self._reader, self._markers.reasoning_scanner
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
        if found[1] == self._markers.closing:
            reader.pos += len(found[1])
        reader.commit()
        yield from self._drop_newlines()

    def _drop_newlines(self) -> Steps[None]:
        reader = self._reader
        while (char := (yield from reader.peek())) and char in _NEWLINES:
            reader.pos += 1
            reader.commit()

    def _content(self) -> Steps[None]:
        """Read content, and the calls within it, to the end of the answer.

        Whitespace next to a call is dropped, so it is held until the next characters are known.
        Structured content may contain the characters of a marker as plain text.
        """
        reader, markers = self._reader, self._markers
        scanner = markers.content_scanner
        begun = False
        while True:
            text, mark = reader.text, reader.mark
            found = scanner.find(text, mark)
            end = found[0] if found else scanner.held_from(text, mark)
            if markers.calls is not None:
                end = mark + len(text[mark:end].rstrip(WHITESPACE))
            begun = begun or not (end == mark or text[mark:end].isspace())
            reader.content(end)
            if found:
                reader.pos = found[0] + len(found[1])
                if begun and self._structured and not markers.alphabet.begins_with_token(found[1]):
                    reader.content(reader.pos)
                elif found[1] in markers.call_markers:
                    yield from self._calls(marked=True)
                elif found[1] == markers.opening:
                    self._state = "open"
                    yield from self._reasoning()
                elif found[1] in markers.silent or reader.num_calls:
                    reader.commit()
                    if found[1] == markers.glue:
                        yield from self._header()
                else:
                    reader.content(reader.pos)
            elif reader.ended:
                if reader.cut and reader.num_calls and not text[mark:end].strip():
                    reader.drop()  # at most the prefix of another call's marker
                elif not (reader.num_calls and text[reader.mark :].isspace()):
                    reader.content(len(text))
                return
            else:
                reader.pos = len(text)
                yield

    def _header(self) -> Steps[None]:
        """Read a call whose marker counts only at the start of a message, if there is one."""
        marker = self._markers.header_marker
        if marker and (yield from self._reader.accept(marker)):
            yield from self._calls(marked=True)

    def _calls(self, *, marked: bool) -> Steps[None]:
        """Read calls after their marker (`marked`: there was one). A malformed call becomes
        content, and so does the text held for it.
        """
        reader, format = self._reader, self._markers.calls
        assert format is not None
        fits = yield from reader.accept_literals(format.before)
        while fits and (fits := (yield from self._call(format))):
            reader.commit()
            if format.after and (yield from reader.accept_literals(format.after)):
                reader.commit()
                return
            if reader.cut:
                reader.drop()
                return
            reader.pos = reader.mark
            if format.one_per_marker:
                return
            # Models also write other separators, or none: try to read another call in any case.
            yield from reader.accept_literals(format.between)
        if reader.cut and (marked or reader.num_calls):
            reader.drop()
            return
        # Keep whitespace before the mismatch unread: it may precede another call.
        held = reader.text[reader.mark : reader.pos].rstrip(WHITESPACE)
        reader.pos = reader.mark + len(held)
        reader.content(reader.pos)

    def _call(self, format: Format) -> Steps[bool]:
        for part in format.call:
            if isinstance(part, Marker | str):
                fits = yield from self._reader.accept_literals((part,))
            else:
                fits = yield from part.read(self._reader)
            if not fits:
                return False
        return True
