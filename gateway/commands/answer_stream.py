"""A streamed chat completion as its events, read from any server of OpenAI's API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class ToolCall:
    id: str = ""
    name: str = ""
    arguments: str = ""  # JSON text


@dataclass(slots=True)
class Delta:
    """A piece of an answer. `calls`: the indices of the calls that it has added to."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[int, ...] = ()


class StreamError(Exception):
    """The stream holds an error or is no stream. The message is one line."""


@dataclass(slots=True)
class Answer:
    """What the stream has said so far."""

    content: str = ""
    reasoning: str = ""
    calls: dict[int, ToolCall] = field(default_factory=dict)
    finish_reason: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    done: bool = False  # the stream has said its end

    def feed(self, line: str) -> Delta | None:
        """Take one line of the stream; None if it adds no text. Raises StreamError."""
        if not line.startswith("data:"):
            return None
        data = line[5:].strip()
        if data == "[DONE]":
            self.done = True
            return None
        try:
            event = json.loads(data)
            if (error := event.get("error")) is not None:
                raise StreamError(str(error["message"] if isinstance(error, dict) else error))
            self.usage = event.get("usage") or self.usage
            return self._delta(event["choices"][0]) if event.get("choices") else None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise StreamError("the server's stream is not one of chat completions") from None

    def _delta(self, choice: dict[str, Any]) -> Delta | None:
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        said = choice.get("delta") or {}
        content = said.get("content") or ""
        # vLLM's older name for it has a suffix.
        reasoning = said.get("reasoning") or said.get("reasoning_content") or ""
        calls = tuple(self._call(part) for part in said.get("tool_calls") or ())
        self.content += content
        self.reasoning += reasoning
        return Delta(content, reasoning, calls) if content or reasoning or calls else None

    def _call(self, part: dict[str, Any]) -> int:
        index = int(part.get("index", 0))
        call = self.calls.setdefault(index, ToolCall())
        function = part.get("function") or {}
        call.id = part.get("id") or call.id
        call.name += function.get("name") or ""
        call.arguments += function.get("arguments") or ""
        return index

    def message(self) -> dict[str, Any]:
        """The answer as a message of the conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content or None}
        if self.reasoning:
            message["reasoning"] = self.reasoning
        if self.calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.calls.values()
            ]
        return message


def deltas(answer: Answer, lines: Iterable[str]) -> Iterator[Delta]:
    """The pieces of `answer` as its lines come. Raises StreamError if it is cut off."""
    for line in lines:
        if (delta := answer.feed(line)) is not None:
            yield delta
    _check_end(answer)


async def async_deltas(answer: Answer, lines: AsyncIterator[str]) -> AsyncIterator[Delta]:
    """As `deltas`."""
    async for line in lines:
        if (delta := answer.feed(line)) is not None:
            yield delta
    _check_end(answer)


def _check_end(answer: Answer) -> None:
    if not answer.done and answer.finish_reason is None:
        raise StreamError("the server has cut the answer off")
