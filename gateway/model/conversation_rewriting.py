"""Rewrites a conversation that a chat template refuses or renders incompletely into turns that it
supports. A conversation that the template supports stays as it is.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import product
from typing import Any

from formgate.gateway.model.chat_template import ChatTemplate, ChatTemplateError
from formgate.gateway.model.template_abilities import abilities_of
from formgate.parsers.derivation.samples import Call
from formgate.parsers.derivation.writing import written_calls
from formgate.parsers.families.generic import (
    describe_calls,
    describe_result,
    describe_tools,
    describe_tools_in,
)

logger = logging.getLogger(__name__)

Message = dict[str, Any]
Messages = list[Message]

_SYSTEM = frozenset({"system", "developer"})
# Formats whose calls look as the instructions describe them.
_EXPLAINED = frozenset({"generic", "hermes"})
_START = "..."  # user turn in front of a conversation that starts with the assistant


@lru_cache(maxsize=16)
def renderer_of(template: ChatTemplate) -> ConversationRenderer:
    """The template's renderer, cached because probing the template takes several renderings."""
    return ConversationRenderer(template)


class ConversationRenderer:
    """Renders conversations with one template, rewritten as far as needed."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._abilities = abilities_of(template)
        self._logged: set[str] = set()

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        **options: Any,
    ) -> str:
        """The rendered text. If no rewriting helps, raises the original's ChatTemplateError."""
        refusal: ChatTemplateError | None = None
        tried: list[tuple[Messages, list[Any]]] = []
        for changes, said, shown in self._ways(list(messages), list(tools)):
            if (said, shown) in tried:
                continue
            tried.append((said, shown))
            for given in (shown,) if shown else (None, []):
                try:
                    text = self._template.render(said, tools=given, **options)
                except ChatTemplateError as error:
                    refusal = refusal or error
                    continue
                self._log(changes)
                return text
        assert refusal is not None
        raise refusal

    def _log(self, changes: Sequence[str]) -> None:
        for change in changes:
            if change not in self._logged:
                self._logged.add(change)
                logger.info(
                    "The chat template does not support a conversation as it is: %s.", change
                )

    def _ways(
        self, messages: Messages, tools: list[Mapping[str, Any]]
    ) -> Iterator[tuple[list[str], Messages, list[Any]]]:
        """(changes, messages, tools), with more and more of the conversation rewritten."""
        can = self._abilities
        called = can.calls or not any("tool_calls" in each for each in messages)
        shows_tools = can.tools or self._template.tool_format is None
        others = any(each["role"] not in _SYSTEM for each in messages)
        answered = can.results or not any(each["role"] == "tool" for each in messages)
        for shape, begun, merged, system, as_text, no_null in product(
            ("as they are", "filled", "text") if shows_tools or not tools else ("text",),
            (False, True),
            (False, True),
            (False, True) if can.system and (others or can.system_alone) else (True,),
            (False, True) if called and answered else (True,),
            (False, True),
        ):
            steps: list[tuple[str, Callable[[Messages], Messages]]] = []
            shown: list[Any] = list(tools)
            if tools and shape == "text":
                functions = [tool["function"] for tool in tools]
                steps.append(
                    ("tools are text", partial(self._with_system, self._described(functions)))
                )
                shown = []
            elif shape == "filled":
                shown = [_filled(tool) for tool in tools]
            if as_text:
                steps.append(("tool calls and results are text", self._calls_as_text))
            elif not can.parallel_calls:
                steps.append(("each call is a turn of its own", _one_call_a_turn))
            if no_null:
                steps.append(("no text is an empty text", self._without_null))
            if not can.calls_beside_text:
                steps.append(("text and calls are two turns", self._calls_apart))
            if not can.lone_results:
                steps.append(("results without a call are text", self._lone_results_as_text))
            if not can.systems:
                steps.append(("the first system turns are one", self._one_system))
            if system or not (can.late_system and can.systems):
                late = partial(self._without_system, keep_first=not system)
                steps.append(("system turns are text of the user's", late))
            if begun:
                steps.append(("the user begins", self._begun_by_user))
            if merged:
                steps.append(("neighbours of one role are one turn", self._merged))
            said, changes = messages, []
            for change, step in steps:
                if (changed := step(said)) != said:
                    changes.append(change)
                said = changed
            if shown and shown != tools:
                changes.append("parameters have all their fields")
            yield changes, said, shown

    def _described(self, functions: list[Any]) -> str:
        format = self._template.tool_format
        if format is None or format.name in _EXPLAINED:
            return describe_tools(functions)
        example = Call("function_name", {"parameter": "value"})
        return describe_tools_in(functions, written_calls(format, [example]))

    def _written(self, calls: Sequence[Any]) -> str:
        """Past calls as the model writes them; in the generic syntax where that is not known."""
        format = self._template.tool_format
        said = [_call(call) for call in calls]
        if format is None or format.name in _EXPLAINED:
            return describe_calls(said)
        made = []
        for name, arguments in said:
            try:
                value = json.loads(arguments)
            except ValueError:
                return describe_calls(said)
            if not isinstance(value, dict):
                return describe_calls(said)
            made.append(Call(name, value))
        return written_calls(format, made)

    def _with_system(self, text: str, messages: Messages) -> Messages:
        if messages and messages[0]["role"] in _SYSTEM:
            first = messages[0]
            both = f"{_text(first)}\n\n{text}"
            return [{**first, "content": self._template.content(both)}, *messages[1:]]
        return [{"role": "system", "content": self._template.content(text)}, *messages]

    def _calls_as_text(self, messages: Messages) -> Messages:
        return [self._call_as_text(message) for message in messages]

    def _call_as_text(self, message: Message) -> Message:
        if message["role"] == "tool":
            return {
                "role": "user",
                "content": self._template.content(describe_result(_text(message))),
            }
        calls = message.get("tool_calls")
        if not calls:
            return message
        kept = {key: value for key, value in message.items() if key != "tool_calls"}
        said = self._written(calls)
        text = "\n".join(filter(None, [_text(message), said]))
        return {**kept, "content": self._template.content(text)}

    def _without_null(self, messages: Messages) -> Messages:
        empty = self._template.content("")
        return [
            {**each, "content": empty} if each["content"] is None else each for each in messages
        ]

    def _calls_apart(self, messages: Messages) -> Messages:
        written: Messages = []
        for message in messages:
            if message.get("tool_calls") and _text(message):
                written.append({k: v for k, v in message.items() if k != "tool_calls"})
                message = {**message, "content": None}
            written.append(message)
        return written

    def _lone_results_as_text(self, messages: Messages) -> Messages:
        written: Messages = []
        calling = False
        for message in messages:
            calling = bool(message.get("tool_calls")) or (calling and message["role"] == "tool")
            written.append(message if calling else self._call_as_text(message))
        return written

    def _one_system(self, messages: Messages) -> Messages:
        first = _num_first_systems(messages)
        if first < 2:
            return messages
        text = "\n\n".join(map(_text, messages[:first]))
        return [{**messages[0], "content": self._template.content(text)}, *messages[first:]]

    def _without_system(self, messages: Messages, *, keep_first: bool) -> Messages:
        """Prepend each system turn to the next user turn, or make it a user turn of its own."""
        first = _num_first_systems(messages) if keep_first else 0
        written: Messages = messages[:first]
        waiting: list[str] = []
        for message in messages[first:]:
            if message["role"] in _SYSTEM:
                waiting.append(_text(message))
                continue
            if waiting and message["role"] == "user":
                text = "\n\n".join([*waiting, _text(message)])
                message = {**message, "content": self._template.content(text)}
                waiting = []
            elif waiting:
                written.append(self._user("\n\n".join(waiting)))
                waiting = []
            written.append(message)
        return [*written, self._user("\n\n".join(waiting))] if waiting else written

    def _begun_by_user(self, messages: Messages) -> Messages:
        first = next((i for i, each in enumerate(messages) if each["role"] not in _SYSTEM), None)
        if first is None or messages[first]["role"] == "user":
            return messages
        return [*messages[:first], self._user(_START), *messages[first:]]

    def _merged(self, messages: Messages) -> Messages:
        merged: Messages = []
        for message in messages:
            last = merged[-1] if merged else None
            if message["role"] == "assistant" and not (_text(message) or _calls(message)):
                continue  # an empty turn
            if last is None or last["role"] != message["role"] or message["role"] == "tool":
                merged.append(message)
                continue
            both = "\n\n".join(filter(None, [_text(last), _text(message)]))
            calls = [*_calls(last), *_calls(message)]
            merged[-1] = {**last, **message, "content": self._template.content(both)}
            if calls:
                merged[-1]["tool_calls"] = calls
        return merged

    def _user(self, text: str) -> Message:
        return {"role": "user", "content": self._template.content(text)}


def _one_call_a_turn(messages: Messages) -> Messages:
    """Each call in a turn of its own, in front of its result."""
    written: Messages = []
    at = 0
    while at < len(messages):
        message = messages[at]
        at += 1
        calls = _calls(message)
        if len(calls) < 2:
            written.append(message)
            continue
        results = []
        while at < len(messages) and messages[at]["role"] == "tool":
            results.append(messages[at])
            at += 1
        for number, call in enumerate(calls):
            text = message["content"] if number == 0 else None
            written.append({**message, "content": text, "tool_calls": [call]})
            last = number == len(calls) - 1
            own = [each for each in results if last or each.get("tool_call_id") == call.get("id")]
            written += own
            results = [each for each in results if not any(each is one for one in own)]
    return written


def _text(message: Message) -> str:
    content = message["content"]
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content)
    return content or ""


def _calls(message: Message) -> list[Any]:
    return message.get("tool_calls") or []


def _num_first_systems(messages: Messages) -> int:
    places = (i for i, each in enumerate(messages) if each["role"] not in _SYSTEM)
    return next(places, len(messages))


def _call(call: Mapping[str, Any]) -> tuple[str, str]:
    arguments = call["function"]["arguments"]
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return call["function"]["name"], arguments


def _filled(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The tool with a type and a description for each parameter, which templates assume."""
    function = tool["function"]
    parameters = dict(function["parameters"])
    given = parameters.get("properties")
    parameters["properties"] = {
        name: {"type": "any", "description": "", **(sub if isinstance(sub, dict) else {})}
        for name, sub in (given.items() if isinstance(given, dict) else ())
    }
    if not isinstance(parameters.get("required"), list):
        parameters["required"] = []
    parameters.setdefault("type", "object")
    return {**tool, "function": {**function, "parameters": parameters}}
