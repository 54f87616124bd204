"""Texts as atoms: special tokens, tags, words, numbers, single characters. Differences between two
renderings are found between atoms, so that `<tool_call>` and `<think>` have nothing in common.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from formgate.parsers.text.scanner import MarkerScanner
from formgate.parsers.text.symbols import Marker, Written

_ATOM = re.compile(r"""<[^<>\n"'=\s]{1,60}>|</?|\[/?[A-Z_]{2,30}\]|[0-9]+|[^\W\d]+|.""", re.DOTALL)
# What a special token usually looks like, for a template without its tokenizer.
_TOKEN_LIKE = re.compile(
    r"<\|[^|<>\n]{1,40}\|>|<｜[^｜\n]{1,40}｜>|<\|[a-z_]{1,40}>|<[a-z_]{1,40}\|>"
    r"|\[/?[A-Z_]{3,20}\]|</?[a-z_]+:[a-z_]+>|</?(?:think|tool_call|tool_calls|tool_response)>"
)


def token_like(template: str) -> list[str]:
    """Texts in a template that look like special tokens."""
    return sorted(set(_TOKEN_LIKE.findall(template)))


def is_token_like(atom: str) -> bool:
    """True for a text with the bars that special tokens have."""
    return bool(_TOKEN_LIKE.fullmatch(atom)) and ("|" in atom or "｜" in atom)


class Atoms:
    """Splits texts, with the tokenizer's special tokens."""

    def __init__(self, tokens: Collection[str]) -> None:
        self.tokens = frozenset(token for token in tokens if token)
        self._scanner = MarkerScanner(self.tokens)

    def split(self, text: str) -> list[str]:
        parts: list[str] = []
        at = 0
        while found := self._scanner.find(text, at):
            parts += _ATOM.findall(text[at : found[0]])
            parts.append(found[1])
            at = found[0] + len(found[1])
        return parts + _ATOM.findall(text[at:])

    def written(self, text: str) -> tuple[Written, ...]:
        """The text as literals of a format: special tokens as markers."""
        parts: list[Written] = []
        for atom in self.split(text):
            if atom in self.tokens:
                parts.append(Marker(atom))
            elif parts and not isinstance(parts[-1], Marker):
                parts[-1] += atom
            else:
                parts.append(atom)
        return tuple(parts)

    def first_token(self, text: str) -> int:
        """Position of the first special token; the text's length if there is none."""
        found = self._scanner.find(text, 0)
        return found[0] if found else len(text)

    def common_start(self, *texts: str) -> str:
        return "".join(_common([self.split(text) for text in texts]))

    def common_end(self, *texts: str) -> str:
        backwards = [self.split(text)[::-1] for text in texts]
        return "".join(reversed(_common(backwards)))

    def start_of_atom(self, text: str, at: int) -> int:
        """The start of the atom that holds the character at `at`."""
        start = 0
        for atom in self.split(text):
            if start + len(atom) > at:
                return start
            start += len(atom)
        return len(text)


def _common(sequences: Sequence[list[str]]) -> list[str]:
    common: list[str] = []
    for atoms in zip(*sequences, strict=False):
        if len(set(atoms)) > 1:
            break
        common.append(atoms[0])
    return common
