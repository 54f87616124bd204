"""Reads steps as the events of an Anthropic message, and as the whole message."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import Any

from formgate.gateway.answers.answer import Answer
from formgate.gateway.answers.answer_fold import ChoiceStep
from formgate.gateway.answers.usage import Usage
from formgate.parsers.text.events import (
    ContentDelta,
    OutputDelta,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallStart,
)

Event = dict[str, Any]


class MessageEvents:
    """The events of one message. One block is open at a time: thinking, text or a tool's use."""

    def __init__(self, answer: Answer, *, shows_thinking: bool = True) -> None:
        self._usage = answer.usage
        self._shows_thinking = shows_thinking
        self._message: dict[str, Any] = {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": answer.head.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }
        self._open: dict[str, Any] | None = None  # the last of the blocks, while it grows
        self._pieces: list[str] = []

    def opening(self) -> list[Event]:
        """The first events. They tell the prompt's cost, which is known after the first step."""
        message = {**self._message, "content": [], "usage": _usage(self._usage)}
        return [{"type": "message_start", "message": message}, {"type": "ping"}]

    def of(self, step: ChoiceStep) -> list[Event]:
        events = [event for delta in step.deltas for event in self._grown(delta)]
        if step.finish_reason is not None:
            self._stop(step.finish_reason, step.stop_reason)
        return events

    def closing(self) -> list[Event]:
        events = self._close_block()
        delta = {name: self._message[name] for name in ("stop_reason", "stop_sequence")}
        events.append({"type": "message_delta", "delta": delta, "usage": _usage(self._usage)})
        return [*events, {"type": "message_stop"}]

    def message(self) -> dict[str, Any]:
        """The whole message, once closed."""
        return {**self._message, "usage": _usage(self._usage)}

    @property
    def _blocks(self) -> list[dict[str, Any]]:
        blocks: list[dict[str, Any]] = self._message["content"]
        return blocks

    def _stop(self, finish_reason: str, stop_reason: str | int | None) -> None:
        called = any(block["type"] == "tool_use" for block in self._blocks)
        match finish_reason:
            case "length":
                reason = "max_tokens"
            case _ if isinstance(stop_reason, str):
                reason = "stop_sequence"
                self._message["stop_sequence"] = stop_reason
            case _:
                reason = "tool_use" if called else "end_turn"
        self._message["stop_reason"] = reason

    def _grown(self, delta: OutputDelta) -> list[Event]:
        match delta:
            case ContentDelta(text):
                return self._grow("text", text)
            case ReasoningDelta(text):
                return self._grow("thinking", text) if self._shows_thinking else []
            case ToolCallStart(_, name, call_id):
                block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
                return self._open_block(block)
            case ToolCallArguments(_, text):
                return self._grow("tool_use", text) if text else []

    def _grow(self, kind: str, text: str) -> list[Event]:
        events: list[Event] = []
        if self._open is None or self._open["type"] != kind:
            new = {"type": "text", "text": ""}
            if kind == "thinking":
                new = {"type": "thinking", "thinking": "", "signature": ""}
            events += self._open_block(new)
        self._pieces.append(text)
        match kind:
            case "thinking":
                delta = {"type": "thinking_delta", "thinking": text}
            case "text":
                delta = {"type": "text_delta", "text": text}
            case _:
                delta = {"type": "input_json_delta", "partial_json": text}
        return [*events, self._delta(delta)]

    def _delta(self, delta: Mapping[str, Any]) -> Event:
        return {"type": "content_block_delta", "index": len(self._blocks) - 1, "delta": delta}

    def _open_block(self, block: dict[str, Any]) -> list[Event]:
        events = self._close_block()
        self._blocks.append(block)
        self._open, self._pieces = block, []
        index = len(self._blocks) - 1
        # What is shown must not change after it: the block itself is filled in when it closes.
        start = {"type": "content_block_start", "index": index, "content_block": dict(block)}
        return [*events, start]

    def _close_block(self) -> list[Event]:
        block = self._open
        if block is None:
            return []
        events: list[Event] = []
        text = "".join(self._pieces)
        match block["type"]:
            case "thinking":
                # Clients send a signed block back and drop one without; nothing here reads it.
                signature = hashlib.sha256(text.encode()).hexdigest()
                block |= {"thinking": text, "signature": signature}
                events.append(self._delta({"type": "signature_delta", "signature": signature}))
            case "text":
                block["text"] = text
            case _:
                block["input"] = _arguments(text)
        self._open = None
        return [*events, {"type": "content_block_stop", "index": len(self._blocks) - 1}]


def _arguments(text: str) -> dict[str, Any]:
    """The arguments as an object, empty for arguments that a limit cut short."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _usage(usage: Usage) -> dict[str, Any]:
    """Anthropic counts the cached tokens apart from the rest of the prompt."""
    cached = usage.cached_tokens or 0
    return {
        "input_tokens": usage.prompt_tokens - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }
