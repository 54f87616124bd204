"""The chunks of a chat completion as the events of a response. The response that an event shows is
the items so far, so a whole response is what the last event of its stream holds.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from formgate.gateway.errors import ApiError
from formgate.gateway.protocol.responses import ResponsesRequest, ResponseTool

Event = dict[str, Any]
_CALLS = {"function": "function_call", "custom": "custom_tool_call"}  # items, by kind of tool
# By kind of item, its events, and the field that holds its text.
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
        model: str,
        name_of: Callable[[str], tuple[str | None, str]] = lambda name: (None, name),
    ) -> None:
        """`name_of`: namespace and name of a tool by its name in the chat request."""
        self._name_of = name_of
        self._key = secrets.token_hex(24)
        self._fields = _echoed(request) | {
            "id": f"resp_{self._key}",
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
        }
        self._number = 0
        self._items: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None  # the last of the items, while it grows
        self._pieces: list[str] = []  # of the open item's text or arguments
        self._logprobs: list[dict[str, Any]] = []
        self._usage: Mapping[str, Any] = {}
        self._finish_reason: str | None = None

    def opening(self) -> list[Event]:
        return [
            self._event("response.created", response=self._response("in_progress")),
            self._event("response.in_progress", response=self._response("in_progress")),
        ]

    def of(self, chunk: Mapping[str, Any]) -> list[Event]:
        self._usage = chunk.get("usage") or self._usage
        events: list[Event] = []
        for choice in chunk["choices"]:
            delta = choice["delta"]
            if text := delta.get("reasoning"):
                events += self._grow("reasoning", text)
            if text := delta.get("content"):
                events += self._grow("message", text, choice["logprobs"])
            for call in delta.get("tool_calls", ()):
                kind = "custom" if "custom" in call else "function"
                if "id" in call:
                    events += self._open_item(self._call(kind, call))
                if text := call[kind]["input" if kind == "custom" else "arguments"]:
                    events += self._grow(_CALLS[kind], text)
            self._finish_reason = choice["finish_reason"] or self._finish_reason
        return events

    def closing(self) -> list[Event]:
        """The last events. An answer of nothing at all is a message without text."""
        events: list[Event] = []
        status: Status = "incomplete" if self._finish_reason == "length" else "completed"
        if not any(item["type"] != "reasoning" for item in self._items) and status == "completed":
            events += self._grow("message", "")
        events += self._close_item(status)
        return [*events, self._event(f"response.{status}", response=self._response(status))]

    def failed(self, error: ApiError) -> list[Event]:
        """The end of a response that an error cut short."""
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
        """Where in the response the open item is."""
        assert self._open is not None
        at = {"item_id": self._open["id"], "output_index": len(self._items) - 1}
        return at | {"content_index": 0} if part else at

    def _call(self, kind: str, call: Mapping[str, Any]) -> dict[str, Any]:
        namespace, name = self._name_of(call[kind]["name"])
        item_type = _CALLS[kind]
        item = {
            "id": self._id("ctc" if kind == "custom" else "fc"),
            "type": item_type,
            "status": "in_progress",
            "call_id": call["id"],
            "name": name,
            _CALL_TEXTS[item_type][1]: "",
        }
        return item if namespace is None else item | {"namespace": namespace}

    def _grow(self, kind: str, text: str, logprobs: Any = None) -> list[Event]:
        events: list[Event] = []
        if self._open is None or self._open["type"] != kind:
            new = _reasoning(self._id("rs")) if kind == "reasoning" else _message(self._id("msg"))
            events += self._open_item(new)
        self._pieces.append(text)
        if not text:
            return events
        if kind == "message":
            shown = [] if logprobs is None else logprobs["content"]
            self._logprobs += shown
            delta = self._event(
                "response.output_text.delta", **self._at(), delta=text, logprobs=shown
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


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    cached = (usage["prompt_tokens_details"] or {}).get("cached_tokens", 0)
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": usage["total_tokens"],
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
    """What a response repeats of its request."""
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
