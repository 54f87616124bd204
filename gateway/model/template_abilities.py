"""Probes which parts of a conversation a chat template renders instead of dropping them silently.
Each ability is probed once, with small conversations. If the template refuses them, the ability is
assumed (but not for tools), since a refusal is noticed with each conversation anyway.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from formgate.gateway.model.chat_template import ChatTemplate, ChatTemplateError

Message = dict[str, Any]


@dataclass(frozen=True)
class Abilities:
    tools: bool
    calls: bool
    calls_beside_text: bool  # in the same turn
    parallel_calls: bool  # several calls in one turn
    results: bool
    lone_results: bool  # tool results without a call
    system: bool
    systems: bool  # two system turns at the beginning
    late_system: bool  # a system turn after other turns
    system_alone: bool


def abilities_of(template: ChatTemplate) -> Abilities:
    probe = _Probe(template)
    question, answer = probe.said("user", "question"), probe.said("assistant", "answer")
    system, more = probe.said("system", "probe_system"), probe.said("system", "probe_more")
    result = {**probe.said("tool", "probe_result"), "tool_call_id": "probe1234", "name": "f"}
    call, silent_call = probe.call(None), probe.call("")
    two_calls, silent_two = probe.call(None, "probe_other"), probe.call("", "probe_other")
    both = [result, {**result, "tool_call_id": "probe1235"}]
    called = probe.shows(
        "probe_call",
        [question, call],
        [question, silent_call],
        [question, call, result],
        [question, silent_call, result],
    )
    together = probe.shows(
        "probe_other",
        [question, two_calls],
        [question, silent_two],
        [question, two_calls, *both],
    )
    return Abilities(
        tools=probe.shows("probe_tool", [question], [system, question], tools=True) is True,
        calls=called is not False,
        calls_beside_text=probe.shows(
            "probe_call", [question, probe.call("text")], [question, probe.call("text"), result]
        )
        is not False,
        parallel_calls=bool(together) or called is not True,
        results=probe.shows(
            "probe_result", [question, call, result], [question, silent_call, result]
        )
        is not False,
        lone_results=probe.shows("probe_result", [question, result, question]) is not False,
        system=probe.shows("probe_system", [system, question]) is not False,
        systems=probe.shows("probe_system", [system, more, question]) is not False
        and probe.shows("probe_more", [system, more, question]) is not False,
        system_alone=probe.shows("probe_system", [system]) is not False,
        late_system=probe.shows("probe_system", [question, answer, system, question]) is not False,
    )


class _Probe:
    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        parameters = {
            "type": "object",
            "properties": {"a": {"type": "string", "description": "probe"}},
            "required": ["a"],
        }
        tool = {"name": "probe_tool", "description": "probe", "parameters": parameters}
        self._tools = [{"type": "function", "function": tool}]

    def said(self, role: str, text: str) -> Message:
        return {"role": role, "content": self._template.content(text)}

    def call(self, text: str | None, *others: str) -> Message:
        arguments: Any = {"probe_argument": "probe value"}
        if self._template.wants_arguments_text:
            arguments = json.dumps(arguments)
        calls = [
            {
                "id": f"probe123{4 + number}",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for number, name in enumerate(("probe_call", *others))
        ]
        content = None if text is None else self._template.content(text)
        return {"role": "assistant", "content": content, "tool_calls": calls}

    def shows(
        self, wanted: str, *conversations: Sequence[Mapping[str, Any]], tools: bool = False
    ) -> bool | None:
        """True if `wanted` is in the rendering of one conversation; None if all are refused."""
        shown = None
        for messages in conversations:
            try:
                text = self._template.render(
                    messages, tools=self._tools if tools else None, add_generation_prompt=True
                )
            except ChatTemplateError:
                continue
            shown = bool(shown) or wanted in text
        return shown
