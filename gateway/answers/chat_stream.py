"""Deltas in OpenAI's shape: the chunks of a streamed chat completion, and the same deltas folded
into a whole one. Plain dicts, because this runs once for every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from formgate.gateway.answers.answer_fold import AnswerFold, FoldedCall
from formgate.gateway.answers.choice import ChoiceStep
from formgate.gateway.answers.custom_calls import InputText, input_text
from formgate.gateway.answers.logprobs import chat_logprobs
from formgate.gateway.answers.usage import Usage
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.parsers.text.events import (
    ContentDelta,
    OutputDelta,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallStart,
)


@dataclass(frozen=True)
class ResponseHead:
    """What every chunk of one response repeats."""

    id: str
    created: int
    model: str
    system_fingerprint: str

    def fields(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "service_tier": None,
            "system_fingerprint": self.system_fingerprint,
        }


@dataclass(frozen=True)
class ChatView:
    """What of an answer the client asked to see."""

    num_logprobs: int | None = None  # None: none at all; k: the token's and the k best
    include_reasoning: bool = True
    include_usage: bool = False
    usage_in_every_chunk: bool = False
    token_ids: bool = False
    trace: bool = False
    custom_tools: frozenset[str] = frozenset()


class ChatChunks:
    """The chunks of one streamed response."""

    def __init__(
        self, head: ResponseHead, view: ChatView, tokenizer: Tokenizer, usage: Usage
    ) -> None:
        self._fields = head.fields("chat.completion.chunk")
        self._view = view
        self._tokenizer = tokenizer
        self._usage = usage
        self._waiting: dict[int, ChoiceStep] = {}  # by choice, what no chunk has carried yet
        self._inputs: dict[tuple[int, int], InputText] = {}  # of custom calls, by choice and index

    def opening(
        self, num_choices: int, echo: str = "", prompt_token_ids: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """Every choice opens, in order, before any has text; the role is said once."""
        chunks = [
            self._chunk(index, {"role": "assistant", "content": echo})
            for index in range(num_choices)
        ]
        if prompt_token_ids is not None:
            chunks[0]["prompt_token_ids"] = list(prompt_token_ids)
        return chunks

    def of(self, step: ChoiceStep) -> list[dict[str, Any]]:
        """Chunks with something in them; often one, none while text is held back."""
        index = step.index
        chunks = [
            self._chunk(index, shown)
            for delta in step.deltas
            if (shown := self._delta(index, delta)) is not None
        ]
        if step.finish_reason is not None:
            ending = self._chunk(index, {})
            ending["choices"][0]["finish_reason"] = step.finish_reason
            ending["choices"][0]["stop_reason"] = step.stop_reason
            if step.closed:
                ending["choices"][0]["closed_within_budget"] = True
            chunks.append(ending)
        if self._view.num_logprobs is not None or self._view.token_ids or self._view.trace:
            self._add_tokens(step, chunks)
        return chunks

    def closing(self) -> list[dict[str, Any]]:
        """The last chunk, if the client asked for it: usage and no choice."""
        if not self._view.include_usage:
            return []
        return [{**self._fields, "choices": [], "usage": self._usage.as_dict()}]

    def _chunk(self, index: int, delta: dict[str, Any]) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        chunk = {**self._fields, "choices": [choice]}
        if self._view.include_usage:
            every = self._view.usage_in_every_chunk
            chunk["usage"] = self._usage.as_dict() if every else None
        return chunk

    def _delta(self, choice: int, delta: OutputDelta) -> dict[str, Any] | None:
        match delta:
            case ContentDelta(text):
                return {"content": text}
            case ToolCallStart(index, name, call_id) if name in self._view.custom_tools:
                self._inputs[choice, index] = InputText()
                custom = {"name": name, "input": ""}
                call = {"index": index, "id": call_id, "type": "custom", "custom": custom}
                return {"tool_calls": [call]}
            case ToolCallArguments(index, text) if (choice, index) in self._inputs:
                text = self._inputs[choice, index].feed(text)
                return (
                    {"tool_calls": [{"index": index, "custom": {"input": text}}]} if text else None
                )
            case ToolCallArguments(index, text):
                return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
            case ToolCallStart(index, name, call_id):
                function = {"name": name, "arguments": ""}
                call = {"index": index, "id": call_id, "type": "function", "function": function}
                return {"tool_calls": [call]}
            case ReasoningDelta(text) if self._view.include_reasoning:
                return {"reasoning_content": text, "reasoning": text}
        return None

    def _add_tokens(self, step: ChoiceStep, chunks: list[dict[str, Any]]) -> None:
        """Tokens ride on the first chunk of their step, or on a later step's if theirs has none."""
        waiting = self._waiting.pop(step.index, None)
        token_ids, logprobs, trace = list(step.token_ids), list(step.logprobs), list(step.trace)
        if waiting is not None:
            token_ids = [*waiting.token_ids, *token_ids]
            logprobs = [*waiting.logprobs, *logprobs]
            trace = [*waiting.trace, *trace]
        if not chunks:
            self._waiting[step.index] = ChoiceStep(step.index, [], token_ids, logprobs, trace=trace)
            return
        choice = chunks[0]["choices"][0]
        if self._view.num_logprobs is not None and logprobs:
            choice["logprobs"] = _logprobs(logprobs, self._tokenizer, self._view.num_logprobs)
        if self._view.token_ids:
            choice["token_ids"] = token_ids
        if self._view.trace and trace:
            choice["trace"] = trace


def chat_choice(
    index: int,
    fold: AnswerFold,
    last: ChoiceStep,
    *,
    view: ChatView,
    tokenizer: Tokenizer,
    echo: str = "",
    token_ids: Sequence[int] = (),
    logprobs: Sequence[Any] = (),
    trace: Sequence[Any] = (),
) -> dict[str, Any]:
    """One choice of a whole response. `token_ids`, `logprobs` and `trace` are those of all its
    steps."""
    content: str | None = echo + fold.content
    if not content and (fold.calls or fold.reasoning):
        content = None
    reasoning = (fold.reasoning or None) if view.include_reasoning else None
    message: dict[str, Any] = {
        "role": "assistant",
        "content": content,
        "refusal": None,
        "reasoning_content": reasoning,
        "reasoning": reasoning,
    }
    if fold.calls:
        message["tool_calls"] = [
            _custom_call(call) if call.name in view.custom_tools else _function_call(call)
            for call in fold.calls
        ]
    choice: dict[str, Any] = {
        "index": index,
        "message": message,
        "logprobs": None,
        "finish_reason": last.finish_reason,
        "stop_reason": last.stop_reason,
    }
    if last.closed:
        choice["closed_within_budget"] = True
    if view.num_logprobs is not None:
        choice["logprobs"] = _logprobs(logprobs, tokenizer, view.num_logprobs)
    if view.token_ids:
        choice["token_ids"] = list(token_ids)
    if view.trace:
        choice["trace"] = list(trace)
    return choice


def _function_call(call: FoldedCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _custom_call(call: FoldedCall) -> dict[str, Any]:
    custom = {"name": call.name, "input": input_text(call.arguments)}
    return {"id": call.id, "type": "custom", "custom": custom}


def _logprobs(positions: Sequence[Any], tokenizer: Tokenizer, num_top: int) -> dict[str, Any]:
    return {"content": chat_logprobs(positions, tokenizer, num_top), "refusal": None}
