"""Decodes a vocabulary's pieces to bytes: byte-level BPE writes each byte as a letter,
sentencepiece writes spaces as U+2581 and rare bytes as <0xHH>. It knows only the `decoder` section
of a tokenizer.json.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

TokenizerKind = Literal["byte_level", "sentencepiece"]

SPACE_MARK = "\u2581"
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_letters() -> dict[str, int]:
    """The letters that byte-level BPE writes for bytes: printable ones stand for themselves, the
    others move to U+0100 and up, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(byte): byte for byte in printable}
    for offset, byte in enumerate(b for b in range(256) if b not in set(printable)):
        letters[chr(0x100 + offset)] = byte
    return letters


BYTE_LETTERS = _byte_letters()


def _decoders(section: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The decoder, followed by its steps if it is a sequence."""
    if section is None:
        return
    yield section
    for step in section.get("decoders", ()):
        yield from _decoders(step)


def tokenizer_kind(decoder: Mapping[str, Any] | None) -> TokenizerKind:
    """The tokenizer's family. Raises ValueError for another decoder."""
    types = {str(step.get("type")) for step in _decoders(decoder)}
    if "ByteLevel" in types:
        return "byte_level"
    if types & {"Metaspace", "ByteFallback"}:
        return "sentencepiece"
    shown = ", ".join(sorted(types)) or "none"
    raise ValueError(
        f"unsupported tokenizer: its decoder is neither byte-level nor Metaspace ({shown})"
    )


def drops_first_space(decoder: Mapping[str, Any] | None) -> bool:
    """True if decoding removes the space that encoding puts before a text's first token."""
    for step in _decoders(decoder):
        if step.get("type") == "Strip" and step.get("content") == " " and step.get("start"):
            return True
        if step.get("type") == "Metaspace":
            return bool(step.get("prepend_scheme", "always") != "never")
    return False


def piece_bytes(piece: str, kind: TokenizerKind) -> bytes:
    """The bytes of one ordinary (not added) token."""
    if kind == "byte_level":
        try:
            return bytes([BYTE_LETTERS[letter] for letter in piece])
        except KeyError:
            return piece.encode()
    if byte := _BYTE_PIECE.fullmatch(piece):
        return bytes([int(byte[1], 16)])
    return piece.replace(SPACE_MARK, " ").encode()
