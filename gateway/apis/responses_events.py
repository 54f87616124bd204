"""Reads steps as the events of a response. The response that an event shows has the items so far,
so the last event of a stream holds the whole response.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from formgate.engine.messages import PositionLogprobs
from formgate.gateway.answers.answer import Answer
from formgate.gateway.answers.answer_fold import ChoiceStep
from formgate.gateway.answers.custom_calls import InputText
from formgate.gateway.answers.logprobs import chat_logprobs
from formgate.gateway.answers.usage import Usage
from formgate.gateway.errors import ApiError
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.protocol.responses import ResponsesRequest, ResponseTool
from formgate.parsers.text.events import (
    ContentDelta,
    OutputDelta,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallStart,
)

Event = dict[str, Any]
# By type of item, its events, and the field that holds its text.
_CALL_TEXTS = {
    "function_call": ("function_call_arguments", "arguments"),
    "custom_tool_call": ("custom_tool_call_input", "input"),
}
Status = Literal["in_progress", "completed", "incomplete", "failed"]


class ResponseEvents:
    """The events of one response. One item is open at a time: reasoning, a message or a call."""

    def __init__(
        self,
        request: ResponsesRequest,
        answer: Answer,
        tokenizer: Tokenizer,
        name_of: Callable[[str], tuple[str | None, str]],
    ) -> None:
        """`name_of`: namespace and name of a tool by its name in the chat request."""
        self._name_of = name_of
        self._key = secrets.token_hex(24)
        self._fields = _echoed(request) | {
            "id": f"resp_{self._key}",
            "object": "response",
            "created_at": int(time.time()),
            "model": answer.head.model,
        }
        self._usage = answer.usage
        self._custom_tools = answer.custom_tools
        self._num_logprobs = answer.num_logprobs
        self._tokenizer = tokenizer
        self._number = 0
        self._items: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None  # the last of the items, while it grows
        self._pieces: list[str] = []  # of the open item's text or arguments
        self._input: InputText | None = None  # of the open item, if it is a custom call
        self._logprobs: list[dict[str, Any]] = []  # of the open item's text
        self._held: list[PositionLogprobs] = []  # of tokens that no event has carried yet
        self._finish_reason: str | None = None

    def opening(self) -> list[Event]:
        return [
            self._event("response.created", response=self._response("in_progress")),
            self._event("response.in_progress", response=self._response("in_progress")),
        ]

    def of(self, step: ChoiceStep) -> list[Event]:
        """The events of one step. The first delta that is shown carries the step's log
        probabilities; without one, they wait for a later step."""
        events: list[Event] = []
        held = [*self._held, *step.logprobs]
        for delta in step.deltas:
            if new := self._delta(delta, held):
                events += new
                held = []
        self._held = held
        self._finish_reason = step.finish_reason or self._finish_reason
        return events

    def _delta(self, delta: OutputDelta, logprobs: Sequence[PositionLogprobs]) -> list[Event]:
        match delta:
            case ContentDelta(text):
                return self._grow("message", text, self._shown(logprobs))
            case ReasoningDelta(text):
                return self._grow("reasoning", text)
            case ToolCallStart(_, name, call_id):
                return self._open_item(self._call(name, call_id))
            case ToolCallArguments(_, text) if self._input is not None:
                text = self._input.feed(text)
                return self._grow("custom_tool_call", text) if text else []
            case ToolCallArguments(_, text):
                return self._grow("function_call", text)

    def _shown(self, logprobs: Sequence[PositionLogprobs]) -> list[dict[str, Any]]:
        if self._num_logprobs is None:
            return []
        return chat_logprobs(logprobs, self._tokenizer, self._num_logprobs)

    def closing(self) -> list[Event]:
        """The last events. An empty answer is a message without text."""
        events: list[Event] = []
        status: Status = "incomplete" if self._finish_reason == "length" else "completed"
        if not any(item["type"] != "reasoning" for item in self._items) and status == "completed":
            events += self._grow("message", "")
        events += self._close_item(status)
        return [*events, self._event(f"response.{status}", response=self._response(status))]

    def failed(self, error: ApiError) -> list[Event]:
        """The last events of a response that an error cuts short."""
        events = self._close_item("incomplete")
        shown = {"code": "server_error", "message": error.message}
        response = {**self._response("failed"), "error": shown}
        return [*events, self._event("response.failed", response=response)]

    def _event(self, kind: str, **fields: Any) -> Event:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return event

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._key}{len(self._items):02x}"

    def _at(self, *, part: bool = True) -> dict[str, Any]:
        """The open item's place in the response."""
        assert self._open is not None
        at = {"item_id": self._open["id"], "output_index": len(self._items) - 1}
        return at | {"content_index": 0} if part else at

    def _call(self, chat_name: str, call_id: str) -> dict[str, Any]:
        namespace, name = self._name_of(chat_name)
        custom = chat_name in self._custom_tools
        item_type = "custom_tool_call" if custom else "function_call"
        item = {
            "id": self._id("ctc" if custom else "fc"),
            "type": item_type,
            "status": "in_progress",
            "call_id": call_id,
            "name": name,
            _CALL_TEXTS[item_type][1]: "",
        }
        return item if namespace is None else item | {"namespace": namespace}

    def _grow(self, kind: str, text: str, logprobs: Sequence[Any] = ()) -> list[Event]:
        events: list[Event] = []
        if self._open is None or self._open["type"] != kind:
            new = _reasoning(self._id("rs")) if kind == "reasoning" else _message(self._id("msg"))
            events += self._open_item(new)
        self._pieces.append(text)
        if not text:
            return events
        if kind == "message":
            self._logprobs += logprobs
            delta = self._event(
                "response.output_text.delta", **self._at(), delta=text, logprobs=list(logprobs)
            )
        elif kind == "reasoning":
            delta = self._event("response.reasoning_text.delta", **self._at(), delta=text)
        else:
            event = f"response.{_CALL_TEXTS[kind][0]}.delta"
            delta = self._event(event, **self._at(part=False), delta=text)
        return [*events, delta]

    def _open_item(self, item: dict[str, Any]) -> list[Event]:
        events = self._close_item("completed")
        self._items.append(item)
        self._open, self._pieces, self._logprobs = item, [], []
        self._input = InputText() if item["type"] == "custom_tool_call" else None
        index = len(self._items) - 1
        # What is shown must not change after it: the item itself is filled in when it closes.
        events.append(
            self._event("response.output_item.added", output_index=index, item=dict(item))
        )
        if item["type"] not in _CALL_TEXTS:
            part = _part(item["type"], "", [])
            events.append(self._event("response.content_part.added", **self._at(), part=part))
        return events

    def _close_item(self, status: Status) -> list[Event]:
        item = self._open
        if item is None:
            return []
        text = "".join(self._pieces)
        item["status"] = status
        if item["type"] in _CALL_TEXTS:
            event, field = _CALL_TEXTS[item["type"]]
            item[field] = text
            fields = {field: text}
            if item["type"] == "function_call":
                fields["name"] = item["name"]
            events = [self._event(f"response.{event}.done", **self._at(part=False), **fields)]
        else:
            part = _part(item["type"], text, self._logprobs)
            item["content"] = [part]
            if item["type"] == "reasoning":
                done = self._event("response.reasoning_text.done", **self._at(), text=text)
            else:
                done = self._event(
                    "response.output_text.done", **self._at(), text=text, logprobs=self._logprobs
                )
            events = [done, self._event("response.content_part.done", **self._at(), part=part)]
        index = len(self._items) - 1
        events.append(self._event("response.output_item.done", output_index=index, item=item))
        self._open = None
        return events

    def _response(self, status: Status) -> dict[str, Any]:
        ended = status in ("completed", "incomplete")
        return {
            **self._fields,
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "error": None,
            "incomplete_details": (
                {"reason": "max_output_tokens"} if status == "incomplete" else None
            ),
            "output": [dict(item) for item in self._items],
            "usage": _usage(self._usage) if ended else None,
        }


def _message(item_id: str) -> dict[str, Any]:
    return {
        "id": item_id,
        "type": "message",
        "status": "in_progress",
        "role": "assistant",
        "content": [],
    }


def _reasoning(item_id: str) -> dict[str, Any]:
    return {
        "id": item_id,
        "type": "reasoning",
        "status": "in_progress",
        "summary": [],
        "content": [],
        "encrypted_content": None,
    }


def _part(kind: str, text: str, logprobs: Sequence[Any]) -> dict[str, Any]:
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens or 0,
            "cache_write_tokens": 0,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


def _echoed_tool(tool: ResponseTool) -> dict[str, Any]:
    if tool.type != "function":
        return tool.model_dump(exclude_unset=True)
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": bool(tool.strict),
    }


def _echoed(request: ResponsesRequest) -> dict[str, Any]:
    """The fields of the request that a response repeats."""
    tools = [_echoed_tool(tool) for tool in request.tools or ()]
    choice = request.tool_choice
    text = request.text.model_dump(by_alias=True, exclude_unset=True) if request.text else {}
    reasoning = request.reasoning
    return {
        "background": False,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": None,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {
            "effort": reasoning.effort if reasoning else None,
            "summary": reasoning.summary if reasoning else None,
        },
        "service_tier": "default",
        "store": False,
        "temperature": request.temperature,
        "text": {**text, "format": text.get("format") or {"type": "text"}},
        "tool_choice": (
            (choice or "auto")
            if choice is None or isinstance(choice, str)
            else choice.model_dump(exclude_unset=True)
        ),
        "tools": tools,
        "top_logprobs": request.top_logprobs or 0,
        "top_p": request.top_p,
        "truncation": request.truncation or "disabled",
        "user": request.user,
    }
