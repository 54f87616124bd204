"""Translates a request of Anthropic's Messages to a chat request: blocks become messages, and each
field takes its chat name.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from formgate.gateway.apis.chat_translation import Conversation, Places, chat_request, required
from formgate.gateway.errors import bad_request
from formgate.gateway.model.unseen_parts import unseen_part
from formgate.gateway.protocol.anthropic import (
    AnthropicTool,
    ContentBlock,
    CountTokensRequest,
    MessagesRequest,
    ResultBlock,
    ThinkingConfig,
)
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.constraints import refuse_unknown_constraints

logger = logging.getLogger(__name__)

THREAD_UNSUPPORTED = "thread_unsupported_request"

# From a field of the chat request to the field of the Messages request.
_FIELDS = {
    "tool_choice.function": "tool_choice",
    "response_format": "output_config.format",
    "response_format.json_schema": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "thinking_token_budget": "thinking.budget_tokens",
    "stop": "stop_sequences",
    "user": "metadata.user_id",
}
# What the assistant's own past may hold that this server never writes nor reads.
_IGNORED_BLOCKS = frozenset({"redacted_thinking"})


def chat_request_of(
    request: CountTokensRequest,
) -> tuple[ChatCompletionRequest, Places]:
    """The chat request, and the places for its errors. Raises ApiError 400 for what no chat request
    can express."""
    _refuse_unsupported(request)
    refuse_unknown_constraints(request, nested_only=True)
    places = Places(_FIELDS)
    messages = _messages(request, Conversation(places))
    tools = _tools(request.tools or (), places)
    choice = _tool_choice(request)
    _refuse_hosted_choice(request, tools)
    if request.output_format is not None:
        places.note("response_format", "output_format")
        places.note("response_format.json_schema", "output_format")
    fields: dict[str, Any] = {
        "model": request.model,
        "messages": messages,
        "tools": tools or None,
        "tool_choice": None if not tools and choice in ("none", "auto") else choice,
        "parallel_tool_calls": (
            False if request.tool_choice and request.tool_choice.disable_parallel_tool_use else None
        ),
        "response_format": _response_format(request),
        "reasoning_effort": _effort(request),
        "thinking_token_budget": _thinking_budget(request.thinking),
        "continue_final_message": _continues(messages) or None,
    }
    if isinstance(request, MessagesRequest):
        fields |= {
            "max_tokens": request.max_tokens,
            "stop": request.stop_sequences or None,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
            "user": request.metadata.user_id if request.metadata else None,
        }
    return chat_request(request, fields, places), places


def _refuse_unsupported(request: CountTokensRequest) -> None:
    if request.thread is not None:
        raise bad_request(
            "'thread' is not supported: this server stores no conversations. Send the full "
            "conversation without it.",
            "thread",
            THREAD_UNSUPPORTED,
        )
    for name, value in (("mcp_servers", request.mcp_servers), ("container", request.container)):
        if value:
            raise bad_request(
                f"'{name}' is not supported: this server runs no tools.",
                name,
                "unsupported_parameter",
            )


def _messages(request: CountTokensRequest, conversation: Conversation) -> list[dict[str, Any]]:
    if request.system:
        conversation.add({"role": "system", "content": _system(request.system)}, "system")
    if not request.messages:
        raise bad_request("'messages' must not be empty.", "messages", "empty_array")
    for i, message in enumerate(request.messages):
        at = f"messages[{i}]"
        if isinstance(message.content, str):
            conversation.add({"role": message.role, "content": message.content}, at)
        elif message.role == "assistant":
            conversation.add(_assistant(message.content, f"{at}.content"), at)
        else:
            _add_blocks(conversation, message.role, message.content, at)
    return conversation.messages


def _add_blocks(
    conversation: Conversation, role: str, blocks: Sequence[ContentBlock], at: str
) -> None:
    """Add the messages of one user's message: each tool result becomes a message of its own."""
    said: list[dict[str, str]] = []
    for i, block in enumerate(blocks):
        here = f"{at}.content[{i}]"
        if block.type == "tool_result" and role == "user":
            if said:
                conversation.add({"role": role, "content": said}, at)
                said = []
            result = {
                "role": "tool",
                "tool_call_id": required(block.tool_use_id, f"{here}.tool_use_id"),
                "content": _result(block.content, f"{here}.content"),
            }
            conversation.add(result, at)
        else:
            said.append(_text_part(block, here))
    if said or not blocks:
        conversation.add({"role": role, "content": said}, at)


def _assistant(blocks: Sequence[ContentBlock], at: str) -> dict[str, Any]:
    said: list[dict[str, str]] = []
    thought: list[str] = []
    calls: list[dict[str, Any]] = []
    for i, block in enumerate(blocks):
        here = f"{at}[{i}]"
        if block.type == "thinking":
            thought.append(required(block.thinking, f"{here}.thinking"))
        elif block.type == "tool_use":
            arguments = json.dumps(required(block.input, f"{here}.input"), ensure_ascii=False)
            function = {"name": required(block.name, f"{here}.name"), "arguments": arguments}
            call_id = required(block.id, f"{here}.id")
            calls.append({"id": call_id, "type": "function", "function": function})
        elif block.type not in _IGNORED_BLOCKS:
            said.append(_text_part(block, here))
    message: dict[str, Any] = {"role": "assistant"}
    if said or not calls:
        message["content"] = said
    if thought:
        message["reasoning_content"] = "\n".join(thought)
    if calls:
        message["tool_calls"] = calls
    return message


def _text_part(block: ContentBlock | ResultBlock, at: str) -> dict[str, str]:
    """The block as text. A picture or a document, which a text model cannot see, becomes a line
    that says so: Anthropic's models see them, so clients send them everywhere.
    """
    if block.type == "text":
        return {"type": "text", "text": required(block.text, f"{at}.text")}
    fields = block.model_dump(exclude_unset=True)
    return {"type": "text", "text": _inner_text(fields) or unseen_part(block.type, fields)}


def _inner_text(fields: Mapping[str, Any]) -> str:
    """The text in a document or a search result; empty if it has none."""
    source = fields.get("source")
    if isinstance(source, dict) and source.get("type") == "text":
        return str(source.get("data") or "")
    inner = source.get("content") if isinstance(source, dict) else fields.get("content")
    if isinstance(inner, str):
        return inner
    texts = [
        part["text"]
        for part in (inner if isinstance(inner, list) else ())
        if isinstance(part, dict) and isinstance(part.get("text"), str)
    ]
    return "\n".join(texts)


def _system(system: str | Sequence[ContentBlock]) -> str | list[dict[str, str]]:
    if isinstance(system, str):
        return system
    return [_text_part(block, f"system[{i}]") for i, block in enumerate(system)]


def _result(
    content: str | Sequence[ResultBlock] | dict[str, Any] | None, at: str
) -> str | list[dict[str, str]]:
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, dict):
        raise bad_request(f"'{at}' must be a string or an array.", at, "invalid_type")
    return [_text_part(block, f"{at}[{i}]") for i, block in enumerate(content)]


def _tools(tools: Sequence[AnthropicTool], places: Places) -> list[dict[str, Any]]:
    """The tools with a schema. Those that Anthropic's servers run or whose schema its models know
    (`web_search_20250305`, ...) are left out: clients offer them to every server.
    """
    made: list[dict[str, Any]] = []
    hosted: set[str] = set()
    for i, tool in enumerate(tools):
        if tool.type in (None, "custom"):
            made.append(_tool(tool, f"tools[{i}]", f"tools[{len(made)}]", places))
        else:
            hosted.add(str(tool.type)[:40])
    if hosted:
        kinds = ", ".join(sorted(hosted))
        logger.info("Tools that this server does not run are left out: %r", kinds)
    return made


def _tool(tool: AnthropicTool, at: str, chat_place: str, places: Places) -> dict[str, Any]:
    places.note(chat_place, at)
    places.note(f"{chat_place}.function", at)
    places.note(f"{chat_place}.function.parameters", f"{at}.input_schema")
    function: dict[str, Any] = {
        "name": tool.name,
        "parameters": required(tool.input_schema, f"{at}.input_schema"),
    }
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _refuse_hosted_choice(request: CountTokensRequest, tools: Sequence[Mapping[str, Any]]) -> None:
    choice = request.tool_choice
    if choice is None or choice.type not in ("any", "tool") or not request.tools:
        return
    offered = {tool["function"]["name"] for tool in tools}
    left_out = {tool.name for tool in request.tools} - offered
    if choice.name in left_out if choice.type == "tool" else not offered:
        raise bad_request(
            "'tool_choice' asks for a tool that this server does not run.",
            "tool_choice",
            "unsupported_parameter",
        )


def _tool_choice(request: CountTokensRequest) -> str | dict[str, Any] | None:
    choice = request.tool_choice
    match choice.type if choice is not None else None:
        case "any":
            return "required"
        case "tool":
            assert choice is not None
            name = required(choice.name, "tool_choice.name")
            return {"type": "function", "function": {"name": name}}
        case kind:
            return kind


def _response_format(request: CountTokensRequest) -> dict[str, Any] | None:
    wanted = request.output_config.format if request.output_config else None
    if request.output_format is not None:
        if wanted is not None:
            raise bad_request(
                "Only one constraint on the answer is allowed, not both 'output_config.format' "
                "and 'output_format'.",
                "output_format",
            )
        wanted = request.output_format
    if wanted is None:
        return None
    return {"type": "json_schema", "json_schema": {"name": "output", "schema": wanted.json_schema}}


def _effort(request: CountTokensRequest) -> str | None:
    """The reasoning effort; None leaves it to the chat template."""
    if request.thinking is None:
        return None
    if request.thinking.type == "disabled":
        return "none"
    effort = request.output_config.effort if request.output_config else None
    return "xhigh" if effort == "max" else effort or "medium"


def _thinking_budget(thinking: ThinkingConfig | None) -> int | None:
    return thinking.budget_tokens if thinking is not None and thinking.type == "enabled" else None


def hides_thinking(thinking: ThinkingConfig | None) -> bool:
    return thinking is not None and thinking.display == "omitted"


def _continues(messages: Sequence[dict[str, Any]]) -> bool:
    """True if the last message is the assistant's: the answer continues it."""
    last = messages[-1]
    return last["role"] == "assistant" and bool(last.get("content")) and "tool_calls" not in last
