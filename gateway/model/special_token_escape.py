"""Keeps a client's text from becoming special tokens. Before rendering, the text of each special
token in the client's strings is replaced by an unguessable name. In the rendered text, the special
tokens are then the template's own, and the names are encoded as the plain text they replace.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from formgate.gateway.errors import bad_request
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.protocol.limits import MAX_TYPED_MARKERS


class SpecialTokenEscape:
    """The replaced texts of one rendering."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._nonce = "q" + secrets.token_hex(12)
        self._names: dict[str, str] = {}  # by the special token's text
        self._num_hidden = 0

    def hide(self, value: Any, *, keep: frozenset[str] = frozenset()) -> Any:
        """`value` with the special tokens in its strings replaced, except for those in `keep`.
        Raises ApiError 400 if there are too many: a name is far longer than a special token."""
        return value if self._tokenizer.marker_pattern is None else self._hide(value, keep)

    def show(self, text: str) -> str:
        """`text` with the names replaced by the client's original text."""
        if self._nonce in text:
            for hidden, name in self._names.items():
                text = text.replace(name, hidden)
        return text

    def encode(self, rendered: str, *, add_special_tokens: bool) -> list[int]:
        """The ids of a rendered text; hidden texts become ordinary tokens."""
        tokenizer = self._tokenizer
        if not self._names:
            return tokenizer.encode(rendered, add_special_tokens=add_special_tokens)
        ids = tokenizer.encode("", add_special_tokens=True) if add_special_tokens else []
        start = 0
        eats_space = False
        for match in tokenizer.find_markers(rendered):
            token = tokenizer.special_tokens[match[0]]
            run = rendered[start : match.start()]
            run = run.lstrip() if eats_space else run
            ids += self._encode_run(run.rstrip() if token.lstrip else run, continues=start > 0)
            ids.append(token.id)
            eats_space = token.rstrip
            start = match.end()
        rest = rendered[start:]
        return ids + self._encode_run(rest.lstrip() if eats_space else rest, continues=start > 0)

    def _encode_run(self, run: str, *, continues: bool) -> list[int]:
        return self._tokenizer.encode_plain(self.show(run), continues=continues) if run else []

    def _hide(self, value: Any, keep: frozenset[str]) -> Any:
        if isinstance(value, str):
            return self._hide_text(value, keep)
        if isinstance(value, Mapping):
            return {self._hide(key, keep): self._hide(item, keep) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._hide(item, keep) for item in value]
        return value

    def _hide_text(self, text: str, keep: frozenset[str]) -> str:
        parts: list[str] = []
        start = 0
        for match in self._tokenizer.find_markers(text):
            parts += [text[start : match.start()], self._name(match[0], keep)]
            start = match.end()
        return "".join([*parts, text[start:]]) if parts else text

    def _name(self, text: str, keep: frozenset[str]) -> str:
        if text in keep:
            return text
        self._num_hidden += 1
        if self._num_hidden > MAX_TYPED_MARKERS:
            raise bad_request(
                f"The conversation has more than {MAX_TYPED_MARKERS} special tokens in its text.",
                "messages",
                "context_length_exceeded",
            )
        return self._names.setdefault(text, f"{self._nonce}x{len(self._names)}x")
