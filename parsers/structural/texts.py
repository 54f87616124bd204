"""Fixed texts as nodes of an answer tree: the special tokens in them stand by their ids."""

from __future__ import annotations

from collections.abc import Mapping

from formgate.parsers.tree import nodes
from formgate.parsers.tree.nodes import Node, TokenNode


class Texts:
    """`special_ids`: the texts of special tokens, which are matched by id."""

    def __init__(self, special_ids: Mapping[str, int]) -> None:
        self._special_ids = special_ids

    def node(self, text: str) -> Node:
        head, token, rest = self.cut(text)
        node = nodes.text(head)
        return node if token is None else nodes.seq([node, token, self.node(rest)])

    def cut(self, text: str) -> tuple[str, TokenNode | None, str]:
        """A text about its first special token."""
        found = [(text.find(special), -len(special), special) for special in self._special_ids]
        at, _, special = min((f for f in found if f[2] and f[0] >= 0), default=(-1, 0, ""))
        if at < 0:
            return text, None, ""
        token = nodes.token(self._special_ids[special], special)
        return text[:at], token, text[at + len(special) :]

    def cuts_token(self, text: str, at: int) -> bool:
        """Whether a special token of the text stands about the place `at`."""
        head, token, rest = self.cut(text)
        if token is None or len(head) >= at:
            return False
        end = len(text) - len(rest)
        return end > at or self.cuts_token(rest, at - end)
