"""Regular expressions for text that does not contain, or does not start with, given strings. They
use only literals, classes, groups and stars, and at most one look-ahead at the start, so every
engine of ours accepts them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

ANYTHING = "(?s:.*)"
_SPACE = r" \t\r\n"
_SYNTAX = set("\\.+*?()|[]{}^$-&~#")
_CONTROLS = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def quoted(text: str) -> str:
    """Escape text for a regular expression."""
    return "".join(
        _CONTROLS.get(char) or ("\\" + char if char in _SYNTAX else char) for char in text
    )


def text_without(marker: str) -> str:
    """Any text that does not contain `marker` and does not end with a prefix of it.

    The first character of the marker must not occur in the rest of it, so that partial matches
    never overlap.
    """
    first = quoted(marker[0])
    if len(marker) == 1:
        return f"[^{first}]*"
    restart, leave = _false_starts(marker)
    return f"(?:[^{first}]|{first}{restart}{leave})*"


def _false_starts(marker: str) -> tuple[str, str]:
    """Patterns after the marker's first character: partial matches that end with another first
    character, and the end of the last partial match.
    """
    first, rest = marker[0], marker[1:]
    assert rest
    assert first not in rest
    # A prefix of the rest, then a character that does not continue it.
    starts = [quoted(rest[:n]) for n in range(len(rest))]
    restart = f"(?:{'|'.join(start + quoted(first) for start in starts)})*"
    leave = "|".join(
        f"{start}[^{quoted(first)}{quoted(rest[n])}]" for n, start in enumerate(starts)
    )
    return restart, f"(?:{leave})"


def text_avoiding(marker: str, opening: str) -> tuple[str, str]:
    """Two patterns: text as in `text_without` that starts neither with whitespace nor with
    `opening`, and the same text followed by the first `marker`.

    The text follows `opening` for some characters and then leaves it. At that point it is inside
    the marker (`matched` characters of it), just after the marker's first character, or outside.
    """
    first = quoted(marker[0])
    restart, leave = _false_starts(marker)
    outside: list[str] = []
    behind_first: list[str] = []
    through: list[str] = []
    ends: list[str] = []
    matched = 0
    for place, char in enumerate(opening):
        before = opening[:place]
        known = {char, marker[0], *marker[matched : matched + 1]}
        space = _SPACE if not place else ""
        outside.append(f"{quoted(before)}[^{space}{''.join(map(quoted, sorted(known)))}]")
        if char != marker[0]:
            behind_first.append(quoted(before) + first)
        if matched and marker[matched] != char:
            for end in range(matched + 1, len(marker)):
                so_far = quoted(before + marker[matched:end])
                outside.append(f"{so_far}[^{first}{quoted(marker[end])}]")
                behind_first.append(so_far + first)
            through.append(quoted(before + marker[matched:]))
        if not matched:
            ends.append(quoted(before))
        if matched and char == marker[matched]:
            matched += 1
        else:
            matched = int(char == marker[0])
        assert matched < len(marker)
    rest = quoted(marker[1:])
    left = f"(?:{'|'.join(behind_first)})" if behind_first else None
    out = "|".join(outside if left is None else [*outside, f"{left}{restart}{leave}"])
    more = f"(?:{out}){text_without(marker)}"
    without = f"(?:{more}|{'|'.join(ends)})"
    if left is not None:
        through.append(f"{left}{restart}{rest}")
    return without, f"(?:{'|'.join([f'{more}{first}{restart}{rest}', *through])})"


@dataclass
class _Trie:
    children: dict[str, _Trie] = field(default_factory=dict)
    spaces: bool = False  # whitespace may precede this node's children
    forbidden: bool = False  # the text must not get here


def text_not_beginning(beginnings: Iterable[Sequence[str]]) -> str:
    """Any text that starts neither with whitespace nor with one of the word sequences, with any
    whitespace between the words. A text that ends before the last word is allowed.

    A look-ahead keeps the pattern as short as the words, which may name hundreds of tools.
    """
    root = _Trie()
    for words in beginnings:
        node = root
        for word in words:
            node.spaces = node is not root
            for char in word:
                node = node.children.setdefault(char, _Trie())
        node.forbidden = True
    known = f"|{_words_of(root)}" if root.children else ""
    return f"(?![{_SPACE}]{known}){ANYTHING}"


def _words_of(node: _Trie) -> str:
    if node.forbidden:
        return ""
    alternatives = [quoted(char) + _words_of(child) for char, child in node.children.items()]
    spaces = f"[{_SPACE}]*" if node.spaces else ""
    one = len(alternatives) == 1
    return spaces + (alternatives[0] if one else f"(?:{'|'.join(alternatives)})")
