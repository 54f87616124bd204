"""The input and output of the stream parser: pieces of text and deltas. A complete answer is the
fold of its deltas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Piece(NamedTuple):
    """A piece of generated text. With `special_id` it is the text of that special token; without,
    it is ordinary text, even if it spells a special token.
    """

    text: str
    special_id: int | None = None


@dataclass(frozen=True, slots=True)
class ContentDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """The start of a call. The name is complete and belongs to a tool."""

    index: int
    name: str
    id: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """More of a call's arguments, as JSON text."""

    index: int
    text: str


OutputDelta = ContentDelta | ReasoningDelta | ToolCallStart | ToolCallArguments
