"""A format as one stream holds it: which strings of symbols end, open or frame what. Made once for
an answer, from the format, the tokenizer's special tokens and what the request allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from formgate.parsers.formats.format import (
    Format,
    ReasoningFormat,
    ReasoningState,
    SpecialIds,
    markers_in,
)
from formgate.parsers.text.scanner import MarkerScanner
from formgate.parsers.text.symbols import Alphabet, Marker, Written


@dataclass(frozen=True)
class Layout:
    """`calls` None: nothing is a call."""

    alphabet: Alphabet
    calls: Format | None
    bare: bool  # calls may begin the answer without a marker
    markers: frozenset[str]  # open calls
    header_marker: str  # opens one where a message begins; empty, if there is none
    glue: str  # behind which a message begins
    silent: frozenset[str]  # framing, dropped wherever content would be
    leftovers: frozenset[str]  # framing that is dropped only behind a call
    opening: str  # of the reasoning; empty, if there is none
    closing: str
    content_scanner: MarkerScanner
    reasoning_scanner: MarkerScanner
    marker_ids: frozenset[int]

    @classmethod
    def of(
        cls,
        format: Format | None,
        reasoning: ReasoningFormat | None,
        state: ReasoningState,
        special_ids: SpecialIds,
        *,
        tools_enabled: bool,
        structured_content: bool,
    ) -> Layout:
        alphabet = Alphabet(special_ids)
        calls = format if tools_enabled else None
        bare = calls is not None and calls.allows_bare(structured_content)
        markers: set[str] = set()
        leftovers: set[str] = set()
        if calls is not None:
            # Where the marker may be left out, its characters typed out mean nothing.
            if calls.marker and (not bare or calls.has_token(special_ids)):
                markers.add(alphabet.written(calls.marker))
            markers.update(map(alphabet.written, calls.other_markers))
            leftovers.update(_each_marker(calls.after, alphabet))
        silent: set[str] = set()
        for framing in map(alphabet.written, format.silent if format is not None else ()):
            # Its characters typed out may be content, where content is not announced.
            is_framing = alphabet.begins_with_token(framing) or (format and format.content_opening)
            (silent if is_framing else leftovers).add(framing)
        opening = closing = ""
        if reasoning is not None:
            opening, closing = alphabet.written(reasoning.open), alphabet.written(reasoning.close)
            if alphabet.begins_with_token(closing):
                silent.add(closing)
        reopening = {opening} if reasoning and reasoning.reopens and state != "none" else set()
        # The marker of a call ends the reasoning too, where it cannot be a quotation.
        interrupting = {marker for marker in markers if alphabet.begins_with_token(marker)}
        framed = markers_in(format.silent) if format is not None else frozenset()
        known = framed | markers_in(calls) | markers_in(reasoning)
        return cls(
            alphabet=alphabet,
            calls=calls,
            bare=bare,
            markers=frozenset(markers),
            header_marker=calls.header_marker if calls is not None else "",
            glue=alphabet.written(format.glue) if format is not None else "",
            silent=frozenset(silent),
            leftovers=frozenset(leftovers),
            opening=opening,
            closing=closing,
            content_scanner=MarkerScanner(markers | silent | leftovers | reopening),
            reasoning_scanner=MarkerScanner({closing, *interrupting} if reasoning else ()),
            marker_ids=frozenset(special_ids[m.text] for m in known if m.text in special_ids),
        )


def _each_marker(parts: Sequence[Written], alphabet: Alphabet) -> list[str]:
    return [alphabet.written((part,)) for part in parts if isinstance(part, Marker)]
