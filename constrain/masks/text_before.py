"""The texts that may directly precede each part of an answer tree, by which a guard finds where a
JSON text begins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

AnswerNode = Mapping[str, Any]

# Represents a JSON text that has just ended. No UTF-8 text has this byte.
JSON_END = b"\xff"

_MOST = 512  # texts before one place
_NEWLINES = re.compile(r"\\n(?:[*?]|\{0,\d+\})")


class Before(NamedTuple):
    """A text that ends at a place, or with `spaced` before the white space at that place. An empty
    text is the start of the answer if `from_start`, otherwise any text.
    """

    text: bytes
    from_start: bool
    spaced: bool = False

    def then(self, text: bytes) -> Before:
        if not text:
            return self
        if self.spaced or self.text == JSON_END:
            return Before(text, False)
        return Before(self.text + text, self.from_start)

    @property
    def is_known(self) -> bool:
        return bool(self.text) or self.from_start


Befores = frozenset[Before]

AT_START: Befores = frozenset((Before(b"", True),))
ANYTHING: Befores = frozenset((Before(b"", False),))


def after(node: AnswerNode, befores: Befores, token_bytes: Sequence[bytes]) -> Befores:
    """The texts that may precede the part after `node`, given those that precede `node`."""
    match node["kind"]:
        case "text":
            return frozenset(one.then(node["value"].encode()) for one in befores)
        case "token":
            return frozenset(one.then(token_bytes[node["id"]]) for one in befores)
        case "seq":
            for item in node["items"]:
                befores = after(item, befores, token_bytes)
            return befores
        case "choice":
            return some(*(after(item, befores, token_bytes) for item in node["items"]))
        case "repeat":
            after_item = after(node["item"], before_each(node, befores, token_bytes), token_bytes)
            return some(after_item, befores) if node["min"] == 0 else after_item
        case "json" | "json_object":
            return frozenset((Before(JSON_END, False),))
        case "free_text_until":
            return frozenset((Before(node["text"].encode(), False),))
        case "regex" if node.get("until"):
            return frozenset((Before(node["until"].encode(), False),))
        case "regex" if _NEWLINES.fullmatch(node["pattern"]):
            return frozenset(one._replace(spaced=True) for one in befores) | befores
    return ANYTHING


def before_each(node: AnswerNode, befores: Befores, token_bytes: Sequence[bytes]) -> Befores:
    """The texts that may precede an item of a repetition: those before the repetition, and an item
    with the separator.
    """
    if node["max"] == 1:
        return befores
    separator = node.get("separator", {"kind": "text", "value": ""})
    each = befores
    for _ in range(3):  # items of fixed text prolong each other, so there may be no fixed point
        after_item = after(node["item"], each, token_bytes)
        more = some(befores, after(separator, after_item, token_bytes))
        if more == each:
            return each
        each = more
    return some(befores, after(separator, after(node["item"], ANYTHING, token_bytes), token_bytes))


def some(*befores: Befores) -> Befores:
    """The union; `ANYTHING` if it has more than `_MOST` texts."""
    found = frozenset().union(*befores)
    return found if len(found) <= _MOST else ANYTHING
