"""Regular expressions for text that must not hold something, which regular expressions cannot say
outright. Plain enough for every engine: literals, classes, groups and stars.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

ANYTHING = "(?s:.*)"
_SPACE = r" \t\r\n"
_SYNTAX = set("\\.+*?()|[]{}^$-&~#")
_CONTROLS = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def quoted(text: str) -> str:
    return "".join(
        _CONTROLS.get(char) or ("\\" + char if char in _SYNTAX else char) for char in text
    )


def text_without(marker: str) -> str:
    """Any text in which `marker` does not occur, nor its beginning at the end.

    Between two first characters of the marker a false start may have any length; that the first
    character does not come again inside the marker keeps false starts from overlapping.
    """
    first, rest = marker[0], marker[1:]
    assert first not in rest
    if not rest:
        return f"[^{quoted(first)}]*"
    # After `first`: as far into the marker as it goes, and then what does not go on.
    starts = [quoted(rest[:n]) for n in range(len(rest))]
    restart = f"(?:{'|'.join(start + quoted(first) for start in starts)})*"
    leave = "|".join(
        f"{start}[^{quoted(first)}{quoted(rest[n])}]" for n, start in enumerate(starts)
    )
    return f"(?:[^{quoted(first)}]|{quoted(first)}{restart}(?:{leave}))*"


@dataclass
class _Trie:
    children: dict[str, _Trie] = field(default_factory=dict)
    spaces: bool = False  # whitespace may come here
    forbidden: bool = False


def text_not_beginning(beginnings: Iterable[Sequence[str]]) -> str:
    """Any text that begins neither with whitespace nor with the words of one of these, whatever
    the whitespace between them. Text may end inside the words: it is then no such beginning yet.
    """
    root = _Trie()
    for words in beginnings:
        node = root
        for word in words:
            node.spaces = node is not root
            for char in word:
                node = node.children.setdefault(char, _Trie())
        node.forbidden = True
    return _avoiding(root, f"[^{_SPACE}{_known(root)}]")


def _avoiding(node: _Trie, other: str) -> str:
    ways = [other + ANYTHING]
    for char, child in node.children.items():
        if child.forbidden:
            continue
        spaces = _SPACE if child.spaces else ""
        before = f"[{spaces}]*" if spaces else ""
        ways.append(quoted(char) + before + _avoiding(child, f"[^{spaces}{_known(child)}]"))
    return f"(?:{'|'.join(ways)})?"


def _known(node: _Trie) -> str:
    return "".join(map(quoted, node.children))
