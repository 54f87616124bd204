"""The turns that a chat template writes for calls, cut from its renderings."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from itertools import product
from typing import Any

from formgate.gateway.model.chat_template import ChatTemplate, ChatTemplateError
from formgate.parsers.derivation.atoms import Atoms
from formgate.parsers.derivation.samples import KEYS, TOOLS, Call, NotWritten, WrittenTurn
from formgate.parsers.derivation.thoughts import ThoughtfulTurn

Message = dict[str, Any]

_ANSWER = "probe answer"
_SHOWN_BEFORE = 200  # characters before a thought in which its marker is looked for


class TemplateTurns:
    """Renders small conversations and cuts the model's turn out of them: from the end of the prompt
    that it would have been given, as far as the two agree. Each is rendered once.

    `tokens`: the tokenizer's special tokens.
    """

    def __init__(self, template: ChatTemplate, tokens: Collection[str]) -> None:
        self._template = template
        self._atoms = Atoms(tokens)
        self._question = {"role": "user", "content": template.content("Which rock is it?")}
        self._turns: dict[str, WrittenTurn | NotWritten] = {}
        self._tools: list[Any] | None = None
        self._prompt = self._prompt_text()
        self._lead, self._ending = self._frame()

    @property
    def frame(self) -> tuple[str, str]:
        """What the template writes around the text of a turn without calls."""
        return self._lead, self._ending

    def __call__(self, calls: Sequence[Call], thought: str = "") -> WrittenTurn:
        key = f"{thought}{calls}"
        if key not in self._turns:
            try:
                self._turns[key] = self._turn(calls, thought)
            except NotWritten as reason:
                self._turns[key] = reason
        made = self._turns[key]
        if isinstance(made, NotWritten):
            raise made
        return made

    def thoughtful(self, thought: str) -> ThoughtfulTurn | None:
        """A turn with a thought and an answer; None if the template shows no thought there."""
        try:
            plain = self._render([self._question, self._answered("")])
            whole = self._render([self._question, self._answered(thought)])
        except ChatTemplateError:
            return None
        before, found, _ = whole.partition(thought)
        if not found or _ANSWER not in whole:
            return None
        at = self._atoms.start_of_atom(self._prompt, _agree(self._prompt, plain))
        return ThoughtfulTurn(
            prompt=self._prompt[at:],
            before=before[-_SHOWN_BEFORE:],
            text=self._behind_prompt(whole),
            thought=thought,
            answer=_ANSWER,
        )

    def _answered(self, thought: str) -> Message:
        said: Message = {"role": "assistant", "content": self._template.content(_ANSWER)}
        return said | {"reasoning_content": thought, "reasoning": thought} if thought else said

    def _turn(self, calls: Sequence[Call], thought: str) -> WrittenTurn:
        made = [self._shown(call) for call in calls]
        results = [
            {
                "role": "tool",
                "content": self._template.content("heavy"),
                "tool_call_id": call.id,
                "name": call.name,
            }
            for call in calls
        ]
        refusal = ""
        left_out = False
        # Some templates show calls only in a turn without text, or where their results follow.
        for content, more in product((self._template.content(""), None), ([], results)):
            said: Message = {"role": "assistant", "content": content, "tool_calls": made}
            if thought:
                said["reasoning_content"] = said["reasoning"] = thought
            try:
                whole = self._render([self._question, said, *more])
            except ChatTemplateError as error:
                refusal = str(error)[:100]
                continue
            text = self._behind_prompt(whole)
            if all(call.name in text for call in calls):
                return WrittenTurn(text.removeprefix(self._lead), self._ending)
            left_out = True
        raise NotWritten(
            "the template leaves calls out" if left_out else f"the template refuses it: {refusal}"
        )

    def _shown(self, call: Call) -> Message:
        arguments: Any = call.arguments
        if self._template.wants_arguments_text:
            arguments = json.dumps(arguments, ensure_ascii=False)
        function = {"name": call.name, "arguments": arguments}
        return {"id": call.id, "type": "function", "function": function}

    def _render(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        return self._template.render(messages, tools=self._tools, add_generation_prompt=prompt)

    def _prompt_text(self) -> str:
        """The prompt, with tools as rich as the template takes them."""
        for tools, prompt in product((_tools(rich=True), _tools(rich=False), None), (True, False)):
            self._tools = tools
            try:
                return self._render([self._question], prompt=prompt)
            except ChatTemplateError:
                continue
        return ""

    def _behind_prompt(self, whole: str) -> str:
        at = _agree(self._prompt, whole)
        return whole[self._atoms.start_of_atom(whole, at) :]

    def _frame(self) -> tuple[str, str]:
        try:
            text = self._behind_prompt(self._render([self._question, self._answered("")]))
        except ChatTemplateError:
            return "", ""
        lead, found, ending = text.partition(_ANSWER)
        return (lead, ending) if found else ("", "")


def _agree(one: str, other: str) -> int:
    """How many characters at their start the texts have in common."""
    differ = (at for at, pair in enumerate(zip(one, other, strict=False)) if len(set(pair)) > 1)
    return next(differ, min(len(one), len(other)))


def _tools(*, rich: bool) -> list[Any]:
    """`rich`: with nested objects, of which some templates want fields that schemas rarely have."""
    shown = []
    for tool in TOOLS:
        parameters: Any = tool.parameters
        if not rich:
            texts = {key: each for key, each in parameters["properties"].items() if key in KEYS}
            parameters = {**parameters, "properties": texts}
        function = {"name": tool.name, "description": "A probe.", "parameters": parameters}
        shown.append({"type": "function", "function": function})
    return shown
