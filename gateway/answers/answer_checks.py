"""The checks of a finished answer for the last validation. Simple rules are checked here; the rest
is returned as texts, each with its schema or regex.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from formgate.constrain.answer_check import Unchecked
from formgate.gateway.answers.answer_fold import AnswerFold
from formgate.gateway.answers.tool_choice import NO_TOOLS, ToolUse
from formgate.gateway.protocol.content_constraint import ContentConstraint
from formgate.gateway.protocol.json_text import write_json

CheckTask = Literal["check_json", "check_regex"]  # of `CompileTasks`


class BrokenPromise(Exception):
    """An answer is invalid. The message is one line that quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Check:
    task: CheckTask
    against: str  # schema or pattern, as JSON
    text: str
    what: str  # part of the answer, for the log

    @property
    def num_bytes(self) -> int:
        return sys.getsizeof(self.against) + sys.getsizeof(self.text)


@dataclass(frozen=True)
class Promise:
    """The guarantees for each answer of a request."""

    content: ContentConstraint | None = None
    tools: ToolUse = NO_TOOLS
    _schemas: dict[str, str] = field(
        default_factory=dict
    )  # as JSON, by tool name; "" for the content

    def checks(self, answer: AnswerFold) -> list[Check]:
        """The checks of a complete answer. Raises BrokenPromise, or Unchecked for a constraint that
        has no second implementation.
        """
        self._look_at_calls(answer)
        return [*self._of_calls(answer), *([] if answer.calls else self._of_content(answer))]

    def _look_at_calls(self, answer: AnswerFold) -> None:
        tools = self.tools
        if tools.mode == "required" and not answer.calls:
            raise BrokenPromise("a call was required and none was made")
        if len(answer.calls) > 1 and not tools.parallel:
            raise BrokenPromise("one call was allowed and more were made")
        names = {tool.name for tool in tools.tools}
        if any(call.name not in names for call in answer.calls):
            raise BrokenPromise("a tool was called that the request does not have")

    def _of_calls(self, answer: AnswerFold) -> Iterator[Check]:
        schemas = {tool.name: tool.schema for tool in self.tools.tools}
        for call in answer.calls:
            schema = self._as_json(call.name, schemas[call.name])
            yield Check("check_json", schema, call.arguments, "arguments of a call")

    def _of_content(self, answer: AnswerFold) -> Iterator[Check]:
        if self.content is None:
            return
        text, value = answer.content, self.content.value
        match self.content.kind:
            case "json":
                yield Check("check_json", self._as_json("", value), text, "the content")
            case "json_object":
                yield Check("check_json", '{"type": "object"}', text, "the content")
            case "choice":
                if text not in value:
                    raise BrokenPromise("the content is none of the choices")
            case "regex":
                yield Check("check_regex", self._as_json("", value), text, "the content")
            case "grammar" | "structural_tag":
                raise Unchecked("grammar")

    def _as_json(self, name: str, value: Any) -> str:
        """The JSON text of `value`, cached for all choices of a request."""
        if name not in self._schemas:
            self._schemas[name] = write_json(value)
        return self._schemas[name]
