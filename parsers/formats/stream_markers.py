"""The markers of one stream, as strings of symbols, with their meanings. Made once per answer from
the format, the tokenizer's special tokens and the request's options.
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
class StreamMarkers:
    alphabet: Alphabet
    calls: Format | None  # None: nothing is a call
    bare: bool  # calls may start the answer without a marker
    call_markers: frozenset[str]  # each starts a call
    header_marker: str  # starts a call at the start of a message only; empty: there is none
    glue: str  # starts a message
    silent: frozenset[str]  # framing that is dropped anywhere in content
    leftovers: frozenset[str]  # framing that is dropped only after a call
    opening: str  # of reasoning; empty: there is no reasoning
    closing: str  # of reasoning
    content_scanner: MarkerScanner  # finds every marker that content may contain
    reasoning_scanner: MarkerScanner  # finds the markers that end the reasoning
    marker_ids: frozenset[int]  # special tokens that the parser must see

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
    ) -> StreamMarkers:
        alphabet = Alphabet(special_ids)
        calls = format if tools_enabled else None
        bare = calls is not None and calls.allows_bare(structured_content)
        markers: set[str] = set()
        leftovers: set[str] = set()
        if calls is not None:
            # If the marker is optional, only its special token counts, not its characters.
            if calls.marker and (not bare or calls.has_token(special_ids)):
                markers.add(alphabet.encode_literals(calls.marker))
            markers.update(map(alphabet.encode_literals, calls.other_markers))
            leftovers.update(_each_marker(calls.after, alphabet))
        silent: set[str] = set()
        for framing in map(alphabet.encode_literals, format.silent if format is not None else ()):
            # As text it may be content, unless the format announces its content.
            is_framing = alphabet.begins_with_token(framing) or (format and format.content_opening)
            (silent if is_framing else leftovers).add(framing)
        opening = closing = ""
        if reasoning is not None:
            opening, closing = (
                alphabet.encode_literals(reasoning.open),
                alphabet.encode_literals(reasoning.close),
            )
            if alphabet.begins_with_token(closing):
                silent.add(closing)
        reopening = {opening} if reasoning and reasoning.reopens and state != "none" else set()
        # A call's marker also ends the reasoning if it is a special token: text may be a quotation.
        interrupting = {marker for marker in markers if alphabet.begins_with_token(marker)}
        framed = markers_in(format.silent) if format is not None else frozenset()
        known = framed | markers_in(calls) | markers_in(reasoning)
        return cls(
            alphabet=alphabet,
            calls=calls,
            bare=bare,
            call_markers=frozenset(markers),
            header_marker=calls.header_marker if calls is not None else "",
            glue=alphabet.encode_literals(format.glue) if format is not None else "",
            silent=frozenset(silent),
            leftovers=frozenset(leftovers),
            opening=opening,
            closing=closing,
            content_scanner=MarkerScanner(markers | silent | leftovers | reopening),
            reasoning_scanner=MarkerScanner({closing, *interrupting} if reasoning else ()),
            marker_ids=frozenset(special_ids[m.text] for m in known if m.text in special_ids),
        )


def _each_marker(parts: Sequence[Written], alphabet: Alphabet) -> list[str]:
    return [alphabet.encode_literals((part,)) for part in parts if isinstance(part, Marker)]
