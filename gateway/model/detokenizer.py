"""Incremental detokenization: the text so far is always a prefix of the text of all ids, and never
ends inside a character. Each special token is a piece of its own; their meaning is not known here.
"""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence

from formgate.gateway.model.tokenizer import Tokenizer
from formgate.parsers.text.events import Piece

_new_decoder = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """The text of one answer.

    `markers` are special ids that always become pieces; `skip_special_tokens` applies to all other
    special tokens. `at_start`: the answer starts a new text, so that the first space of a
    sentencepiece tokenizer is dropped.
    """

    __slots__ = ("_at_start", "_decode", "_skipped", "_special", "_token_bytes")

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        markers: Collection[int] = (),
        skip_special_tokens: bool = True,
        at_start: bool = False,
    ) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._special = tokenizer.marker_ids
        self._skipped = (
            tokenizer.skipped_ids.difference(markers) if skip_special_tokens else frozenset[int]()
        )
        self._at_start = at_start and tokenizer.drops_first_space
        self._decode = _new_decoder("replace").decode

    def feed(self, token_ids: Sequence[int]) -> list[Piece]:
        """The pieces that these ids complete. Ordinary text between two markers is one piece."""
        pieces: list[Piece] = []
        token_bytes = self._token_bytes
        if len(token_ids) == 1 and (token_id := token_ids[0]) not in self._special:
            if token_id < len(token_bytes):
                self._add_text(pieces, token_bytes[token_id], final=False)
            return pieces
        run = b""
        for token_id in token_ids:
            if token_id in self._special:
                if token_id in self._skipped:
                    continue
                # A marker ends an incomplete character.
                self._add_text(pieces, run, final=True)
                run = b""
                self._at_start = False
                pieces.append(Piece(token_bytes[token_id].decode(), token_id))
            elif token_id < len(token_bytes):  # a padded row of the logits is no token
                run += token_bytes[token_id]
        if run:
            self._add_text(pieces, run, final=False)
        return pieces

    def finish(self) -> list[Piece]:
        """The remaining text: U+FFFD if the ids end inside a character."""
        pieces: list[Piece] = []
        self._add_text(pieces, b"", final=True)
        return pieces

    def _add_text(self, pieces: list[Piece], run: bytes, *, final: bool) -> None:
        text = self._decode(run, final)
        if not text:
            return
        if self._at_start:
            self._at_start = False
            if text[0] == " ":
                text = text[1:]
                if not text:
                    return
        pieces.append(Piece(text))
