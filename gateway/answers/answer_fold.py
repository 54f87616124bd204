"""The steps of a choice, and their fold, which a complete response is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from formgate.engine.messages import PositionLogprobs, TokenOutput
from formgate.parsers.text.events import (
    ContentDelta,
    OutputDelta,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallStart,
)


@dataclass(slots=True)
class ChoiceStep:
    """What one engine step brought to one choice."""

    index: int
    deltas: list[OutputDelta]
    token_ids: list[int]
    logprobs: Sequence[PositionLogprobs]
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    closed: bool = False  # ended so that it fits its budget
    trace: Sequence[dict[str, Any]] = ()
    first: TokenOutput | None = None  # the first output, for what only that one says


@dataclass(slots=True)
class FoldedCall:
    id: str
    name: str
    pieces: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)


@dataclass(slots=True)
class AnswerFold:
    """All steps of one choice so far, joined. `token_ids`, `logprobs` and `trace` stay empty unless
    `keeps_tokens` is set: a stream shows them at once.
    """

    keeps_tokens: bool = False
    calls: list[FoldedCall] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    trace: list[dict[str, Any]] = field(default_factory=list)
    prompt_logprobs: Sequence[PositionLogprobs | None] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    closed: bool = False
    _content: list[str] = field(default_factory=list)
    _reasoning: list[str] = field(default_factory=list)

    def add_step(self, step: ChoiceStep) -> None:
        for delta in step.deltas:
            self.add(delta)
        if self.keeps_tokens:
            self.add_tokens(step)
        if step.finish_reason is not None:
            self.finish_reason = step.finish_reason
            self.stop_reason = step.stop_reason
            self.closed = step.closed

    def add_tokens(self, step: ChoiceStep) -> None:
        self.token_ids += step.token_ids
        self.logprobs += step.logprobs
        self.trace += step.trace

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
