"""Reads steps as OpenAI's chat completions: the chunks of a stream, and the whole response of a
fold. Chunks are plain dicts, because this runs once for every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from formgate.engine.messages import PositionLogprobs
from formgate.gateway.answers.answer import Answer
from formgate.gateway.answers.answer_fold import AnswerFold, ChoiceStep, FoldedCall
from formgate.gateway.answers.custom_calls import InputText, input_text
from formgate.gateway.answers.logprobs import chat_logprobs, prompt_logprobs
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.parsers.text.events import (
    ContentDelta,
    OutputDelta,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallStart,
)


class ChatChunks:
    """The chunks of one streamed response."""

    def __init__(
        self, answer: Answer, request: ChatCompletionRequest, tokenizer: Tokenizer
    ) -> None:
        self._fields = answer.head.fields("chat.completion.chunk")
        self._usage = answer.usage
        self._num_choices = len(answer.choices)
        self._prompt_token_ids = answer.prompts[0] if request.return_token_ids else None
        self._custom_tools = answer.custom_tools
        self._tokenizer = tokenizer
        self._echo = _echo(request)
        self._include_reasoning = request.include_reasoning
        self._include_usage = request.include_usage
        self._usage_in_every_chunk = request.usage_in_every_chunk
        self._num_logprobs = answer.num_logprobs
        self._token_ids = bool(request.return_token_ids)
        self._trace = request.traced
        self._shows_tokens = self._num_logprobs is not None or self._token_ids or self._trace
        self._held: dict[int, AnswerFold] = {}  # by choice, tokens that no chunk has carried yet
        self._inputs: dict[tuple[int, int], InputText] = {}  # of custom calls, by choice and index

    def opening(self) -> list[dict[str, Any]]:
        """Every choice opens, in order, before any has text; the role is said once."""
        chunks = [
            self._chunk(index, {"role": "assistant", "content": self._echo})
            for index in range(self._num_choices)
        ]
        if self._prompt_token_ids is not None:
            chunks[0]["prompt_token_ids"] = list(self._prompt_token_ids)
        return chunks

    def of(self, step: ChoiceStep) -> list[dict[str, Any]]:
        """The chunks of one step; none while text is held back."""
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
        if self._shows_tokens:
            self._add_tokens(step, chunks)
        return chunks

    def closing(self) -> list[dict[str, Any]]:
        """The last chunk, if the client asked for it: usage and no choice."""
        if not self._include_usage:
            return []
        return [{**self._fields, "choices": [], "usage": self._usage.as_dict()}]

    def _chunk(self, index: int, delta: dict[str, Any]) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        chunk = {**self._fields, "choices": [choice]}
        if self._include_usage:
            chunk["usage"] = self._usage.as_dict() if self._usage_in_every_chunk else None
        return chunk

    def _delta(self, choice: int, delta: OutputDelta) -> dict[str, Any] | None:
        match delta:
            case ContentDelta(text):
                return {"content": text}
            case ToolCallStart(index, name, call_id) if name in self._custom_tools:
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
            case ReasoningDelta(text) if self._include_reasoning:
                return {"reasoning_content": text, "reasoning": text}
        return None

    def _add_tokens(self, step: ChoiceStep, chunks: list[dict[str, Any]]) -> None:
        """Put the tokens on the step's first chunk; without a chunk, they wait for a later step."""
        held = self._held.pop(step.index, None) or AnswerFold()
        held.add_tokens(step)
        if not chunks:
            self._held[step.index] = held
            return
        choice = chunks[0]["choices"][0]
        if self._num_logprobs is not None and held.logprobs:
            choice["logprobs"] = _logprobs(held.logprobs, self._tokenizer, self._num_logprobs)
        if self._token_ids:
            choice["token_ids"] = held.token_ids
        if self._trace and held.trace:
            choice["trace"] = held.trace


def chat_completion(
    answer: Answer, request: ChatCompletionRequest, tokenizer: Tokenizer
) -> dict[str, Any]:
    """The whole response, once the answer is complete."""
    positions = answer.choices[0].fold.prompt_logprobs
    return {
        **answer.head.fields("chat.completion"),
        "choices": [
            _choice(choice.index, choice.fold, answer, request, tokenizer)
            for choice in answer.choices
        ],
        "usage": answer.usage.as_dict(),
        "prompt_logprobs": None if positions is None else prompt_logprobs(positions, tokenizer),
        "prompt_token_ids": answer.prompts[0] if request.return_token_ids else None,
    }


def _choice(
    index: int,
    fold: AnswerFold,
    answer: Answer,
    request: ChatCompletionRequest,
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    content: str | None = _echo(request) + fold.content
    if not content and (fold.calls or fold.reasoning):
        content = None
    reasoning = (fold.reasoning or None) if request.include_reasoning else None
    message: dict[str, Any] = {
        "role": "assistant",
        "content": content,
        "refusal": None,
        "reasoning_content": reasoning,
        "reasoning": reasoning,
    }
    if fold.calls:
        custom_tools = answer.custom_tools
        message["tool_calls"] = [
            _custom_call(call) if call.name in custom_tools else _function_call(call)
            for call in fold.calls
        ]
    choice: dict[str, Any] = {
        "index": index,
        "message": message,
        "logprobs": None,
        "finish_reason": fold.finish_reason,
        "stop_reason": fold.stop_reason,
    }
    if fold.closed:
        choice["closed_within_budget"] = True
    if (num_top := answer.num_logprobs) is not None:
        choice["logprobs"] = _logprobs(fold.logprobs, tokenizer, num_top)
    if request.return_token_ids:
        choice["token_ids"] = fold.token_ids
    if request.traced:
        choice["trace"] = fold.trace
    return choice


def _function_call(call: FoldedCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _custom_call(call: FoldedCall) -> dict[str, Any]:
    custom = {"name": call.name, "input": input_text(call.arguments)}
    return {"id": call.id, "type": "custom", "custom": custom}


def _logprobs(
    positions: Sequence[PositionLogprobs], tokenizer: Tokenizer, num_top: int
) -> dict[str, Any]:
    return {"content": chat_logprobs(positions, tokenizer, num_top), "refusal": None}


def _echo(request: ChatCompletionRequest) -> str:
    """The text that `echo` repeats: that of the assistant's last message."""
    last = request.messages[-1]
    if not request.echo or last.role != "assistant" or last.content is None:
        return ""
    if isinstance(last.content, str):
        return last.content
    return "\n".join(part.text or "" for part in last.content)
