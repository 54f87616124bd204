"""Translates a Responses request to a chat request: items become messages, and each field takes its
chat name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from formgate.gateway.apis.chat_translation import Conversation, Places, chat_request, required
from formgate.gateway.apis.responses_tools import ResponseTools
from formgate.gateway.errors import bad_request
from formgate.gateway.model.unseen_parts import unseen_part
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.constraints import refuse_unknown_constraints
from formgate.gateway.protocol.responses import (
    InputItem,
    InputPart,
    ResponsesRequest,
)
from formgate.gateway.protocol.rules import TEXT_PARTS

# Items of tools that OpenAI's servers run.
_HOSTED_ITEMS = frozenset(
    {
        "code_interpreter_call",
        "compaction_trigger",
        "file_search_call",
        "image_generation_call",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
        "mcp_list_tools",
        "tool_search_call",
        "tool_search_output",
        "web_search_call",
    }
)
LOGPROBS = "message.output_text.logprobs"  # of `include`

# From a field of the chat request to the field of the Responses request.
_FIELDS = {
    "messages": "input",
    "tool_choice.allowed_tools": "tool_choice",
    "response_format": "text.format",
    "response_format.json_schema": "text.format",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
}


def chat_request_of(
    request: ResponsesRequest,
) -> tuple[ChatCompletionRequest, ResponseTools, Places]:
    """The chat request, its tools, and the places for its errors. Raises ApiError 400 for what no
    chat request can express.
    """
    places = Places(_FIELDS)
    tools = ResponseTools(request.tools or (), places)
    _refuse_stored(request)
    refuse_unknown_constraints(request, nested_only=True)
    messages = _InputReader(tools, places).read(request)
    if request.tools and not tools.definitions and request.tool_choice == "required":
        raise bad_request(
            "'tool_choice' asks for a call, and this server runs none of the 'tools'.",
            "tool_choice",
        )
    wants_logprobs = request.top_logprobs is not None or LOGPROBS in (request.include or ())
    effort = request.reasoning.effort if request.reasoning else None
    chat = chat_request(
        request,
        {
            "model": request.model,
            "messages": messages,
            "tools": tools.definitions or None,
            "tool_choice": tools.choice(request.tool_choice),
            "parallel_tool_calls": request.parallel_tool_calls,
            "response_format": _response_format(request),
            "reasoning_effort": "xhigh" if effort == "max" else effort,
            "max_completion_tokens": request.max_output_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "logprobs": wants_logprobs or None,
            "top_logprobs": request.top_logprobs,
            "metadata": request.metadata,
            "user": request.user,
        },
        places,
    )
    return chat, tools, places


def _refuse_stored(request: ResponsesRequest) -> None:
    for name, value in (
        ("previous_response_id", request.previous_response_id),
        ("conversation", request.conversation),
        ("prompt", request.prompt),
    ):
        if value is not None:
            raise bad_request(
                f"'{name}' is not supported: this server stores no responses. Send the whole "
                "conversation as 'input'.",
                name,
                "unsupported_parameter",
            )
    if request.background:
        raise bad_request(
            "'background' is not supported: this server stores no responses.",
            "background",
            "unsupported_parameter",
        )


class _InputReader:
    """Makes messages of items. An assistant's turn (reasoning, text, calls) is several items and
    one message."""

    def __init__(self, tools: ResponseTools, places: Places) -> None:
        self._tools = tools
        self._conversation = Conversation(places)
        self._add = self._conversation.add

    def read(self, request: ResponsesRequest) -> list[dict[str, Any]]:
        if request.instructions is not None:
            self._add({"role": "system", "content": request.instructions}, "instructions")
        if isinstance(request.input, str):
            self._add({"role": "user", "content": request.input}, "input")
        elif not request.input:
            raise bad_request("'input' must not be empty.", "input", "empty_array")
        else:
            for i, item in enumerate(request.input):
                self._add_item(item, f"input[{i}]", is_last=i == len(request.input) - 1)
        return self._conversation.messages

    def _add_item(self, item: InputItem, at: str, *, is_last: bool) -> None:
        match item.type:
            case None | "message":
                self._add_message(item, at, is_last=is_last)
            case "function_call":
                called = self._tools.chat_name(item.namespace, required(item.name, f"{at}.name"))
                arguments = required(item.arguments, f"{at}.arguments")
                self._add_call(item, at, "function", {"name": called, "arguments": arguments})
            case "custom_tool_call":
                called = self._tools.chat_name(item.namespace, required(item.name, f"{at}.name"))
                text = required(item.input, f"{at}.input")
                self._add_call(item, at, "custom", {"name": called, "input": text})
            case "local_shell_call" | "shell_call" | "apply_patch_call" | "computer_call":
                fields = item.model_extra or {}
                arguments = fields.get("action", fields.get("operation"))
                if not isinstance(arguments, dict):
                    arguments = {}
                called = item.type.removesuffix("_call")
                self._add_call(item, at, "function", {"name": called, "arguments": arguments})
            case kind if kind.endswith("_call_output"):
                # The output of a local shell has only an `id`, that of its call.
                call_id = item.call_id or (item.model_extra or {}).get("id")
                message = {
                    "role": "tool",
                    "tool_call_id": required(call_id, f"{at}.call_id"),
                    "content": _output(item, f"{at}.output"),
                }
                self._add(message, at)
            case kind if kind in _HOSTED_ITEMS:
                pass  # the assistant's text after it says what came of it
            case "reasoning":
                # Without `content`, what the model thought is in the summary or was encrypted.
                parts = item.content if isinstance(item.content, list) else None
                parts = parts or item.summary
                text = "\n".join(part.text or "" for part in parts or ())
                if text:
                    self._assistant(at, begins=True)["reasoning_content"] = text
            case "item_reference":
                raise bad_request(
                    "Items cannot be referred to: this server stores no responses. Send them "
                    "whole, as many clients do when 'store' is false.",
                    at,
                    "unsupported_parameter",
                )
            case "compaction" | "compaction_summary":
                raise bad_request(
                    "A compaction can be read only by the server that made it. Send the "
                    "conversation itself.",
                    f"{at}.type",
                    "unsupported_parameter",
                )
            case kind:
                raise bad_request(
                    f"An item of type '{kind[:40]}' is not supported.",
                    f"{at}.type",
                    "invalid_value",
                )

    def _add_call(self, item: InputItem, at: str, kind: str, call: dict[str, Any]) -> None:
        called = {"id": required(item.call_id, f"{at}.call_id"), "type": kind, kind: call}
        self._assistant(at).setdefault("tool_calls", []).append(called)

    def _add_message(self, item: InputItem, at: str, *, is_last: bool) -> None:
        role = required(item.role, f"{at}.role")
        text_only = is_last and role == "user"
        given = required(item.content, f"{at}.content")
        content = _text(given, f"{at}.content", text_only=text_only)
        if role != "assistant":
            self._add({"role": role, "content": content}, at)
            return
        message = self._assistant(at)
        if message.get("content") is not None or message.get("tool_calls"):
            message = self._assistant(at, begins=True)
        message["content"] = content

    def _assistant(self, at: str, *, begins: bool = False) -> dict[str, Any]:
        messages = self._conversation.messages
        if not begins and messages and messages[-1]["role"] == "assistant":
            return messages[-1]
        return self._add({"role": "assistant"}, at)


def _output(item: InputItem, at: str) -> str | list[dict[str, Any]]:
    """The output of a tool as content: it is text, parts, or an object of the tool's own kind."""
    output = item.output
    if isinstance(output, dict):
        kind = output.get("type")
        if isinstance(kind, str) and kind in ("computer_screenshot", "input_image"):
            return unseen_part(kind, output)
        return json.dumps(output, ensure_ascii=False)
    if output is None and item.type == "apply_patch_call_output":
        return str((item.model_extra or {}).get("status", ""))
    return _text(required(output, at), at)


def _text(
    content: str | Sequence[InputPart], at: str, *, text_only: bool = False
) -> str | list[dict[str, Any]]:
    """The content as text. `text_only` refuses parts that are no text, such as pictures; otherwise
    a line of text replaces them.
    """
    if isinstance(content, str):
        return content
    parts: list[dict[str, Any]] = []
    for i, part in enumerate(content):
        if part.type == "refusal":
            text = required(part.refusal, f"{at}[{i}].refusal")
        elif part.type in TEXT_PARTS:
            text = required(part.text, f"{at}[{i}].text")
        elif not text_only:
            text = part.text or unseen_part(part.type, part.model_extra or {})
        else:
            raise bad_request(
                f"This model reads text only; a part of type '{part.type[:40]}' is not supported.",
                f"{at}[{i}].type",
                "unsupported_content",
            )
        parts.append({"type": "text", "text": text})
    return parts


def _response_format(request: ResponsesRequest) -> dict[str, Any] | None:
    wanted = request.text.format if request.text else None
    if wanted is None:
        return None
    if wanted.type != "json_schema":
        return {"type": wanted.type, "schema": wanted.json_schema}
    schema = required(wanted.json_schema, "text.format.schema")
    described = {"name": wanted.name, "schema": schema, "strict": wanted.strict}
    return {"type": "json_schema", "json_schema": described}
