"""From a Responses request to the chat request that answers it: items to messages, and each field
to its name there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from formgate.gateway.chat_translation import FieldNames, chat_request
from formgate.gateway.errors import bad_request
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.constraints import refuse_unknown_constraints
from formgate.gateway.protocol.responses import (
    InputItem,
    InputPart,
    ResponsesRequest,
    ResponseTool,
    ResponseToolChoice,
)
from formgate.gateway.protocol.rules import TEXT_PARTS

LOGPROBS = "message.output_text.logprobs"  # of `include`

_FIELDS = (
    (r"messages\b", "input"),
    (r"tools\[(\d+)\]\.function\b", r"tools[\1]"),
    (r"tool_choice\.function\b", "tool_choice"),
    (r"tool_choice\.allowed_tools\.tools\[(\d+)\]\.function\b", r"tool_choice.tools[\1]"),
    (r"tool_choice\.allowed_tools\b", "tool_choice"),
    (r"response_format\.json_schema\b", "text.format"),
    (r"response_format\b", "text.format"),
    (r"max_completion_tokens\b", "max_output_tokens"),
    (r"reasoning_effort\b", "reasoning.effort"),
)


def chat_request_of(request: ResponsesRequest) -> tuple[ChatCompletionRequest, FieldNames]:
    """With the names for its errors. Raises ApiError 400 for what no chat request can say."""
    _refuse_stored(request)
    refuse_unknown_constraints(request, nested_only=True)
    conversation = _Conversation(request)
    tools = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(request.tools or ())]
    choice: object = _tool_choice(request.tool_choice)
    wants_logprobs = request.top_logprobs is not None or LOGPROBS in (request.include or ())
    effort = request.reasoning.effort if request.reasoning else None
    names = FieldNames(_FIELDS, conversation.origins)
    chat = chat_request(
        request,
        {
            "model": request.model,
            "messages": conversation.messages,
            "tools": tools or None,
            # Clients send a choice with no tools, as OpenAI's own endpoint allows.
            "tool_choice": None if not tools and choice in ("none", "auto") else choice,
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
        names,
    )
    return chat, names


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


class _Conversation:
    """The messages of a chat, and the field of the request that each of them came in. What the
    assistant did in one turn (it reasoned, wrote and called) is several items and one message."""

    def __init__(self, request: ResponsesRequest) -> None:
        self.messages: list[dict[str, Any]] = []
        self.origins: list[str] = []
        if request.instructions is not None:
            self._add({"role": "system", "content": request.instructions}, "instructions")
        if isinstance(request.input, str):
            self._add({"role": "user", "content": request.input}, "input")
            return
        if not request.input:
            raise bad_request("'input' must not be empty.", "input", "empty_array")
        for i, item in enumerate(request.input):
            self._add_item(item, f"input[{i}]")

    def _add(self, message: dict[str, Any], origin: str) -> dict[str, Any]:
        self.messages.append(message)
        self.origins.append(origin)
        return message

    def _add_item(self, item: InputItem, at: str) -> None:
        match item.type:
            case None | "message":
                self._add_message(item, at)
            case "function_call":
                function = {
                    "name": _required(item.name, f"{at}.name"),
                    "arguments": _required(item.arguments, f"{at}.arguments"),
                }
                call = {
                    "id": _required(item.call_id, f"{at}.call_id"),
                    "type": "function",
                    "function": function,
                }
                self._assistant(at).setdefault("tool_calls", []).append(call)
            case "function_call_output":
                message = {
                    "role": "tool",
                    "tool_call_id": _required(item.call_id, f"{at}.call_id"),
                    "content": _text(_required(item.output, f"{at}.output"), f"{at}.output"),
                }
                self._add(message, at)
            case "reasoning":
                parts = item.content if isinstance(item.content, list) else item.summary
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
            case kind:
                raise bad_request(
                    f"An item of type '{kind[:40]}' is not supported.",
                    f"{at}.type",
                    "invalid_value",
                )

    def _add_message(self, item: InputItem, at: str) -> None:
        role = _required(item.role, f"{at}.role")
        content = _text(_required(item.content, f"{at}.content"), f"{at}.content")
        if role != "assistant":
            self._add({"role": role, "content": content}, at)
            return
        message = self._assistant(at)
        if message.get("content") is not None or message.get("tool_calls"):
            message = self._assistant(at, begins=True)
        message["content"] = content

    def _assistant(self, at: str, *, begins: bool = False) -> dict[str, Any]:
        if not begins and self.messages and self.messages[-1]["role"] == "assistant":
            return self.messages[-1]
        return self._add({"role": "assistant"}, at)


def _required(value: Any, param: str) -> Any:
    if value is None:
        raise bad_request(
            f"Missing required parameter: '{param}'.", param, "missing_required_parameter"
        )
    return value


def _text(content: str | Sequence[InputPart], at: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    parts: list[dict[str, Any]] = []
    for i, part in enumerate(content):
        if part.type == "refusal":
            text = _required(part.refusal, f"{at}[{i}].refusal")
        elif part.type in TEXT_PARTS:
            text = _required(part.text, f"{at}[{i}].text")
        else:
            raise bad_request(
                f"This model reads text only; a part of type '{part.type[:40]}' is not supported.",
                f"{at}[{i}].type",
                "unsupported_content",
            )
        parts.append({"type": "text", "text": text})
    return parts


def _tool(tool: ResponseTool, at: str) -> dict[str, Any]:
    if tool.type != "function":
        raise bad_request(
            f"A tool of type '{tool.type[:40]}' is not supported: this server runs no tools. "
            "Use functions.",
            f"{at}.type",
            "unsupported_parameter",
        )
    function: dict[str, Any] = {"name": _required(tool.name, f"{at}.name")}
    for name in ("description", "parameters", "strict"):
        if (value := getattr(tool, name)) is not None:
            function[name] = value
    return {"type": "function", "function": function}


def _tool_choice(choice: str | ResponseToolChoice | None) -> object:
    if choice is None or isinstance(choice, str):
        return choice
    if choice.type == "function":
        name = _required(choice.name, "tool_choice.name")
        return {"type": "function", "function": {"name": name}}
    if choice.type == "allowed_tools":
        tools = _required(choice.tools, "tool_choice.tools")
        named = [
            {
                "type": "function",
                "function": {"name": _required(tool.name, f"tool_choice.tools[{i}].name")},
            }
            for i, tool in enumerate(tools)
        ]
        mode = _required(choice.mode, "tool_choice.mode")
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}}
    raise bad_request(
        f"A tool choice of type '{choice.type[:40]}' is not supported.",
        "tool_choice.type",
        "unsupported_parameter",
    )


def _response_format(request: ResponsesRequest) -> dict[str, Any] | None:
    wanted = request.text.format if request.text else None
    if wanted is None:
        return None
    if wanted.type != "json_schema":
        return {"type": wanted.type, "schema": wanted.json_schema}
    schema = _required(wanted.json_schema, "text.format.schema")
    described = {"name": wanted.name, "schema": schema, "strict": wanted.strict}
    return {"type": "json_schema", "json_schema": described}
