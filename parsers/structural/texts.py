"""Fixed texts as nodes of an answer tree. Special tokens in them are matched by id."""

from __future__ import annotations

from collections.abc import Mapping

from formgate.parsers.tree import nodes
from formgate.parsers.tree.nodes import Node, TokenNode


class Texts:
    """`special_ids`: ids of the special tokens by their texts."""

    def __init__(self, special_ids: Mapping[str, int]) -> None:
        self._special_ids = special_ids

    def node(self, text: str) -> Node:
        """The text, with its special tokens as token nodes."""
        head, token, rest = self.cut(text)
        node = nodes.text(head)
        return node if token is None else nodes.seq([node, token, self.node(rest)])

    def cut(self, text: str) -> tuple[str, TokenNode | None, str]:
        """(text before the first special token, the token, text after it)."""
        found = [(text.find(special), -len(special), special) for special in self._special_ids]
        at, _, special = min((f for f in found if f[2] and f[0] >= 0), default=(-1, 0, ""))
        if at < 0:
            return text, None, ""
        token = nodes.token(self._special_ids[special], special)
        return text[:at], token, text[at + len(special) :]

    def cuts_token(self, text: str, at: int) -> bool:
        """True if the offset `at` lies inside a special token of the text."""
        head, token, rest = self.cut(text)
        if token is None or len(head) >= at:
            return False
        end = len(text) - len(rest)
        return end > at or self.cuts_token(rest, at - end)
