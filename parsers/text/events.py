"""What a stream parser says about a model's text. One event is one thing a client can see happen;
a complete answer is its events folded, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Piece(NamedTuple):
    """A stretch of generated text. With `special_id`, the one special token that it is the text
    of; without, ordinary text, in which the same characters mean nothing special.
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
    """A call begins: its name is whole and known."""

    index: int
    name: str
    id: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """The next characters of a call's arguments, as JSON text."""

    index: int
    text: str


OutputDelta = ContentDelta | ReasoningDelta | ToolCallStart | ToolCallArguments
