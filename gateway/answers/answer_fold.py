"""Deltas folded into the whole: what a complete response says is what its stream has said."""

from __future__ import annotations

from dataclasses import dataclass, field

from formgate.parsers.text.events import (
    ContentDelta,
    OutputDelta,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallStart,
)


@dataclass(slots=True)
class FoldedCall:
    id: str
    name: str
    pieces: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)


class AnswerFold:
    """The text, reasoning and calls of one choice, so far."""

    __slots__ = ("_content", "_reasoning", "calls")

    def __init__(self) -> None:
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self.calls: list[FoldedCall] = []

    def add_content(self, text: str) -> None:
        self._content.append(text)

    def add(self, delta: OutputDelta) -> None:
        match delta:
            case ContentDelta(text):
                self._content.append(text)
            case ReasoningDelta(text):
                self._reasoning.append(text)
            case ToolCallStart(index, name, call_id):
                assert index == len(self.calls), "calls are numbered as they start"
                self.calls.append(FoldedCall(call_id, name))
            case ToolCallArguments(index, text):
                self.calls[index].pieces.append(text)

    @property
    def content(self) -> str:
        return "".join(self._content)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)
