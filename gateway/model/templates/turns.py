"""The turns that a chat template writes for calls, cut from its renderings."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from itertools import product
from typing import Any

from formgate.gateway.model.chat_template import ChatTemplate, ChatTemplateError
from formgate.parsers.derivation.atoms import Atoms
from formgate.parsers.derivation.samples import TOOLS, Call, NotWritten, WrittenTurn

Message = dict[str, Any]

_ANSWER = "probe answer"


class TemplateTurns:
    """Renders small conversations and cuts the model's turn out of them: from the end of the prompt
    that it would have been given, as far as the two agree. Each is rendered once.

    `tokens`: the tokenizer's special tokens.
    """

    def __init__(self, template: ChatTemplate, tokens: Collection[str]) -> None:
        self._template = template
        self._atoms = Atoms(tokens)
        self._tools = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": "A probe.",
                    "parameters": tool.parameters,
                },
            }
            for tool in TOOLS
        ]
        self._question = {"role": "user", "content": template.content("Which rock is it?")}
        self._turns: dict[str, WrittenTurn | NotWritten] = {}
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

    def answer(self, thought: str = "", answer: str = _ANSWER) -> str:
        """The model's turn with a text and no calls. Raises ChatTemplateError."""
        said: Message = {"role": "assistant", "content": self._template.content(answer)}
        if thought:
            said["reasoning_content"] = said["reasoning"] = thought
        return self._behind_prompt(self._render([self._question, said]))

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
        for prompt in (True, False):
            try:
                return self._render([self._question], prompt=prompt)
            except ChatTemplateError:
                continue
        return ""

    def _behind_prompt(self, whole: str) -> str:
        pairs = zip(self._prompt, whole, strict=False)
        differs = (place for place, (one, other) in enumerate(pairs) if one != other)
        at = next(differs, min(len(self._prompt), len(whole)))
        return whole[self._atoms.start_of_atom(whole, at) :]

    def _frame(self) -> tuple[str, str]:
        try:
            text = self.answer()
        except ChatTemplateError:
            return "", ""
        lead, found, ending = text.partition(_ANSWER)
        return (lead, ending) if found else ("", "")
