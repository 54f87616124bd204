"""Results of the Python API: one answer, with its value in the caller's output type."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from formgate.gateway.library.output_types import OutputType


@dataclass(frozen=True)
class TokenUsage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int


@dataclass(frozen=True)
class CalledTool:
    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """One answer.

    `value` is the answer in its output type, or the text if none was given. It is None if the
    answer calls tools instead, or is incomplete or refused by the type; `error` then says why.
    """

    text: str
    value: Any
    finish_reason: str  # "stop", "length" or "tool_calls"
    usage: TokenUsage
    tool_calls: tuple[CalledTool, ...] = ()
    reasoning: str | None = None
    error: str | None = None
    choice: Mapping[str, Any] = field(default_factory=dict, repr=False)  # as the server shows it

    @property
    def message(self) -> dict[str, Any]:
        """The assistant message, to append to the next call's messages."""
        return dict(self.choice.get("message") or {"role": "assistant", "content": self.text})


def completed(answer: Mapping[str, Any], wanted: OutputType) -> Result:
    choice = answer["choices"][0]
    value, error = _value(choice["text"], choice["finish_reason"], wanted)
    return Result(
        text=choice["text"],
        value=value,
        finish_reason=choice["finish_reason"],
        usage=_usage(answer["usage"]),
        error=error,
        choice=choice,
    )


def chatted(answer: Mapping[str, Any], wanted: OutputType) -> Result:
    choice = answer["choices"][0]
    message = choice["message"]
    text = message["content"] or ""
    calls = message.get("tool_calls") or ()
    value, error = (None, None) if calls else _value(text, choice["finish_reason"], wanted)
    return Result(
        text=text,
        value=value,
        finish_reason=choice["finish_reason"],
        usage=_usage(answer["usage"]),
        tool_calls=_called(calls, choice["finish_reason"]),
        reasoning=message["reasoning"],
        error=error,
        choice=choice,
    )


def _value(text: str, finish_reason: str, wanted: OutputType) -> tuple[Any, str | None]:
    """(value, error): one of them is None."""
    if wanted.constraint is None:
        return text, None
    if finish_reason != "stop":
        return None, "The answer is incomplete: 'max_tokens' or the context is too short."
    try:
        return wanted.parse(text), None
    except (ValueError, KeyError, RecursionError) as error:
        return None, f"The type refuses the answer: {error}"


def _called(calls: Sequence[Mapping[str, Any]], finish_reason: str) -> tuple[CalledTool, ...]:
    """The complete calls. A call cut by `max_tokens` has no readable arguments and is left out."""
    called: list[CalledTool] = []
    for call in calls:
        function = call["function"]
        try:
            arguments = json.loads(function["arguments"])
        except ValueError:
            assert finish_reason == "length", "a complete call has JSON arguments"
            break
        called.append(CalledTool(call["id"], function["name"], arguments))
    return tuple(called)


def _usage(usage: Mapping[str, Any]) -> TokenUsage:
    prompt_details = usage["prompt_tokens_details"] or {}
    return TokenUsage(
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        cached_tokens=prompt_details.get("cached_tokens", 0),
        reasoning_tokens=usage["completion_tokens_details"]["reasoning_tokens"],
    )
