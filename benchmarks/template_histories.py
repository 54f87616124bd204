"""Renders histories of every shape, with tools of every shape, by each chat template of a folder,
and says which are refused. Usage: python benchmarks/template_histories.py FOLDER
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from formgate.gateway.model.chat_template import ChatTemplate, ChatTemplateError
from formgate.gateway.model.conversation_rewriting import ConversationRenderer
from formgate.gateway.model.prompts import template_message, template_tools
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.parse import parse_object
from formgate.parsers.families.registry import FORMATS


def said(role: str, text: Any, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": text, **fields}


def call(*ids: str, text: str | None = None, arguments: str = '{"city": "Rome"}') -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": arguments}
    calls = [{"id": each, "type": "function", "function": function} for each in ids]
    return said("assistant", text, tool_calls=calls)


def result(call_id: str, text: Any) -> dict[str, Any]:
    return said("tool", text, tool_call_id=call_id)


ONE, TWO, LONG = "abcdefgh1", "abcdefgh2", "call_0123456789abcdef"
ASK, AGAIN, ANSWER = said("user", "ask1"), said("user", "ask2"), said("assistant", "ans1")
SYSTEM, DEVELOPER = said("system", "sys1"), said("developer", "dev1")
HISTORIES: dict[str, list[dict[str, Any]]] = {
    "plain": [ASK],
    "system": [SYSTEM, ASK],
    "developer": [DEVELOPER, ASK],
    "two systems": [SYSTEM, DEVELOPER, ASK],
    "late system": [ASK, ANSWER, SYSTEM, AGAIN],
    "system last": [ASK, ANSWER, SYSTEM],
    "only system": [SYSTEM],
    "two users": [ASK, AGAIN],
    "two assistants": [ASK, ANSWER, said("assistant", "ans2"), AGAIN],
    "assistant first": [ANSWER, ASK],
    "assistant last": [ASK, ANSWER],
    "agent": [SYSTEM, ASK, call(ONE), result(ONE, "res1"), AGAIN],
    "call last": [ASK, call(ONE), result(ONE, "res1")],
    "call without result": [ASK, call(ONE), AGAIN],
    "call with text": [ASK, call(ONE, text="said1"), result(ONE, "res1"), ANSWER, AGAIN],
    "two calls": [ASK, call(ONE, TWO), result(ONE, "res1"), result(TWO, "res2"), ANSWER, AGAIN],
    "calls in a row": [ASK, call(ONE), result(ONE, "res1"), call(TWO), result(TWO, "res2"), AGAIN],
    "orphan": [ASK, result(ONE, "res1"), AGAIN],
    "orphan first": [result(ONE, "res1"), ASK],
    "repeated result": [ASK, call(ONE), result(ONE, "res1"), result(ONE, "res2"), AGAIN],
    "long ids": [ASK, call(LONG), result(LONG, "res1"), AGAIN],
    "nothing said": [said("user", ""), said("assistant", ""), ASK],
    "thought": [ASK, said("assistant", "ans1", reasoning_content="th1"), AGAIN],
    "no JSON": [ASK, call(ONE, arguments="Rome, no JSON"), result(ONE, "res1"), AGAIN],
    "empty result": [ASK, call(ONE), result(ONE, ""), AGAIN],
    "a result of parts": [
        ASK, call(ONE), result(ONE, [{"type": "text", "text": "res1"}, {"type": "image"}]), AGAIN
    ],
}  # fmt: skip
TOOLS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "full": {
        "description": "d",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "c"}},
            "required": ["city"],
        },
    },
    "name alone": {},
    "null": {"parameters": None, "description": None, "strict": None},
    "empty": {"parameters": {}},
    "true": {"parameters": True},
    "no properties": {"parameters": {"type": "object"}},
    "empty properties": {"parameters": {"type": "object", "properties": {}}},
    "untyped": {"parameters": {"type": "object", "properties": {"city": {}, "any": True}}},
    "mixed": {
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": ["string", "null"]},
                "b": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
                "c": {"enum": ["a", 1, None]},
                "d": {"type": "array", "items": True},
                "e": {"$ref": "#/$defs/x"},
                "f": {"type": "object", "properties": {"g": {}}},
            },
            "required": None,
            "$defs": {"x": {"type": "integer"}},
        }
    },
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    refused: Counter[tuple[str, str, str]] = Counter()
    count = 0
    for path in sorted(parser.parse_args().folder.glob("*.jinja")):
        named_tokens = {"bos_token": "<s>", "eos_token": "</s>"}
        template = ChatTemplate(path.read_text(), named_tokens, tool_format=FORMATS["generic"])
        renderer = ConversationRenderer(template)
        for history, messages in HISTORIES.items():
            for name, tool in TOOLS.items():
                count += 1
                try:
                    render(renderer, template, messages, tool)
                except ChatTemplateError as error:
                    refused[path.name, history, f"{name}: {error}"] += 1
    for place in sorted(refused):
        print(*place, sep=" | ")
    print(f"{count} conversations, {len(refused)} refused")
    return 1 if refused else 0


def render(
    renderer: ConversationRenderer,
    template: ChatTemplate,
    messages: list[dict[str, Any]],
    tool: dict[str, Any] | None,
) -> str:
    fields: dict[str, Any] = {"messages": messages}
    if tool is not None:
        fields["tools"] = [{"type": "function", "function": {"name": "get_weather", **tool}}]
    request = parse_object(ChatCompletionRequest, fields)
    return renderer.render(
        [template_message(message, template) for message in request.messages],
        template_tools(request.tools or ()),
        add_generation_prompt=True,
    )


if __name__ == "__main__":
    sys.exit(main())
