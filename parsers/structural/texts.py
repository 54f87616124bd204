"""What an answer tree for a structural tag is put together from: fixed texts, in which special
tokens stand by their ids, sequences and choices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Node = dict[str, Any]


class Texts:
    """`special_ids`: the texts of special tokens, which are matched by id."""

    def __init__(self, special_ids: Mapping[str, int]) -> None:
        self._special_ids = special_ids

    def node(self, text: str) -> Node:
        head, token, rest = self.cut(text)
        node: Node = {"kind": "text", "value": head}
        return node if token is None else seq([node, token, self.node(rest)])

    def cut(self, text: str) -> tuple[str, Node | None, str]:
        """A text about its first special token."""
        found = [(text.find(special), -len(special), special) for special in self._special_ids]
        at, _, special = min((f for f in found if f[2] and f[0] >= 0), default=(-1, 0, ""))
        if at < 0:
            return text, None, ""
        token = {"kind": "token", "id": self._special_ids[special], "text": special}
        return text[:at], token, text[at + len(special) :]

    def cuts_token(self, text: str, at: int) -> bool:
        """Whether a special token of the text stands about the place `at`."""
        head, token, rest = self.cut(text)
        if token is None or len(head) >= at:
            return False
        end = len(text) - len(rest)
        return end > at or self.cuts_token(rest, at - end)


def seq(nodes: Sequence[Node]) -> Node:
    """Neighbouring texts become one."""
    flat: list[Node] = []
    for node in nodes:
        for part in node["items"] if node["kind"] == "seq" else [node]:
            if part["kind"] == "text" and flat and flat[-1]["kind"] == "text":
                flat[-1] = {"kind": "text", "value": flat[-1]["value"] + part["value"]}
            elif part != {"kind": "text", "value": ""}:
                flat.append(part)
    if len(flat) == 1:
        return flat[0]
    return {"kind": "seq", "items": flat} if flat else {"kind": "text", "value": ""}


def choice(nodes: Iterable[Node]) -> Node:
    items = list(nodes)
    return items[0] if len(items) == 1 else {"kind": "choice", "items": items}
