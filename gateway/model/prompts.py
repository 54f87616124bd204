"""Encodes messages, tools and documents to a prompt's token ids, through the model's chat template.
It knows conversations and lengths, but neither the engine nor the answer.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic_core import from_json

from formgate.gateway.errors import ApiError, bad_request
from formgate.gateway.model.chat_template import ChatTemplate, ChatTemplateError
from formgate.gateway.model.conversation_rewriting import renderer_of
from formgate.gateway.model.mistral_tokenizer import MistralTokenizer
from formgate.gateway.model.special_token_escape import SpecialTokenEscape
from formgate.gateway.model.text_bound import TextBound
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.model.unseen_parts import unseen_part
from formgate.gateway.protocol.chat import (
    ChatCompletionRequest,
    ContentPart,
    Message,
    ToolCall,
    ToolDefinition,
)
from formgate.gateway.protocol.rules import NO_TEXT_PARTS, TEXT_PARTS
from formgate.gateway.protocol.tokenize import TokenizeRequest
from formgate.gateway.protocol.tool_names import AS_GIVEN, ToolNames

# Templates find the reasoning in past assistant messages by these and remove it.
_REASONING_MARKERS = frozenset({"<think>", "</think>", "[THINK]", "[/THINK]"})
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")


class TemplateTraits(Protocol):
    """What a prompt renderer expects of the messages it is given."""

    knows_developer: bool
    wants_parts: bool
    wants_short_call_ids: bool
    wants_arguments_text: bool


@dataclass(frozen=True)
class Conversation:
    """The inputs of a chat template, as the client wrote them."""

    messages: Sequence[Message]
    tools: Sequence[ToolDefinition] = ()
    documents: Sequence[Mapping[str, Any]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    kwargs: Mapping[str, Any] | None = None


def conversation_of(
    request: ChatCompletionRequest, default_kwargs: Mapping[str, Any]
) -> Conversation:
    """The request's conversation. Its own template arguments override `reasoning_effort`, which
    overrides the server's defaults. With `tool_choice: "none"` it has no tools."""
    kwargs = dict(default_kwargs)
    if (effort := request.reasoning_effort) is not None:
        # The switch has two names: Qwen's, and that of DeepSeek and Granite.
        thinks = effort != "none"
        kwargs |= {"reasoning_effort": effort, "enable_thinking": thinks, "thinking": thinks}
    kwargs |= request.chat_template_kwargs or {}
    add_generation_prompt = request.add_generation_prompt
    if add_generation_prompt is None:
        add_generation_prompt = not request.continue_final_message
    return Conversation(
        messages=request.messages,
        tools=() if request.tool_choice == "none" else request.tools or (),
        documents=request.documents,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=request.continue_final_message,
        add_special_tokens=request.add_special_tokens,
        kwargs=kwargs,
    )


def tokenize_prompt(
    request: TokenizeRequest,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    default_kwargs: Mapping[str, Any],
    bound: TextBound,
) -> list[int]:
    """The ids of a `/tokenize` request. Raises ApiError 400."""
    if (request.prompt is None) == (request.messages is None):
        raise bad_request("Give either 'prompt' or 'messages'.", "prompt")
    if request.prompt is not None:
        add_special_tokens = request.add_special_tokens is not False
        bound.check([request.prompt], tokenizer, "prompt")
        return tokenizer.encode(request.prompt, add_special_tokens=add_special_tokens)
    assert request.messages is not None
    conversation = Conversation(
        messages=request.messages,
        tools=request.tools or (),
        add_generation_prompt=request.add_generation_prompt and not request.continue_final_message,
        continue_final_message=request.continue_final_message,
        add_special_tokens=bool(request.add_special_tokens),
        kwargs={**default_kwargs, **(request.chat_template_kwargs or {})},
    )
    return encode_conversation(conversation, tokenizer, template, bound)


def encode_conversation(
    conversation: Conversation,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    bound: TextBound,
) -> list[int]:
    """The prompt's token ids. No text of the client becomes a special token. Raises ApiError 400,
    also if the text exceeds `bound`."""
    if template is None and isinstance(tokenizer, MistralTokenizer):
        bound.check(list(_texts(conversation.messages)), tokenizer, "messages")
        return _encode_by_mistral(conversation, tokenizer)
    escape = SpecialTokenEscape(tokenizer)
    text = _render(conversation, template, escape)
    bound.check([escape.show(text)], tokenizer, "messages")
    return escape.encode(text, add_special_tokens=conversation.add_special_tokens)


def end_of_prompt(
    conversation: Conversation, tokenizer: Tokenizer, template: ChatTemplate, *, length: int
) -> str:
    """The last `length` characters of the text that `encode_conversation` encodes."""
    escape = SpecialTokenEscape(tokenizer)
    return escape.show(_render(conversation, template, escape)[-length:])


def _render(
    conversation: Conversation, template: ChatTemplate | None, escape: SpecialTokenEscape
) -> str:
    if template is None:
        raise bad_request(
            "The model has no chat template. Start the server with --chat-template, or use "
            "/v1/completions.",
            "messages",
        )
    if not conversation.messages:
        raise bad_request("'messages' must not be empty.", "messages", "empty_array")
    if conversation.continue_final_message and conversation.messages[-1].tool_calls:
        raise bad_request(
            "The final message calls tools, so it is over and cannot be continued.",
            "continue_final_message",
        )
    messages = []
    names = ToolNames(tool.name for tool in conversation.tools)
    for message in conversation.messages:
        shown = template_message(message, template, names)
        content = shown.pop("content")
        keep = _REASONING_MARKERS if message.role == "assistant" else frozenset[str]()
        messages.append({**escape.hide(shown), "content": escape.hide(content, keep=keep)})
    end = _mark_end(messages[-1]) if conversation.continue_final_message else None
    kwargs = escape.hide(conversation.kwargs or {})
    try:
        text = renderer_of(template).render(
            messages,
            escape.hide(template_tools(conversation.tools, names)),
            documents=escape.hide(conversation.documents),
            add_generation_prompt=conversation.add_generation_prompt,
            kwargs={key: value for key, value in kwargs.items() if key not in _RESERVED},
        )
    except ChatTemplateError as error:
        raise bad_request(
            f"The chat template refused the conversation: {escape.show(str(error))}", "messages"
        ) from error
    if end is not None:
        text, found, _ = text.rpartition(end)
        if not found:
            raise bad_request(
                "The chat template does not show the final message, so it cannot be continued.",
                "continue_final_message",
            )
    return text


def _encode_by_mistral(conversation: Conversation, tokenizer: MistralTokenizer) -> list[int]:
    if not conversation.messages:
        raise bad_request("'messages' must not be empty.", "messages", "empty_array")
    names = ToolNames(tool.name for tool in conversation.tools)
    try:
        return tokenizer.encode_chat(
            [template_message(message, tokenizer, names) for message in conversation.messages],
            template_tools(conversation.tools, names),
            continue_final_message=conversation.continue_final_message,
        )
    except ValueError as error:
        raise bad_request(
            f"The model's tokenizer refused the conversation: {error}", "messages"
        ) from error


_RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt"})


def fit_prompt(
    token_ids: list[int],
    *,
    max_tokens: int | None,
    truncate: int | None,
    max_model_len: int,
    vocab_size: int,
    param: str,
) -> tuple[list[int], int]:
    """(prompt, number of tokens that may follow). The prompt loses tokens on the left if the client
    asked to `truncate` it.

    Raises ApiError 400: `context_length_exceeded`, or for a token of the tokenizer that is outside
    the model's `vocab_size`.
    """
    if truncate is not None:
        limit = max_model_len - (max_tokens or 1) if truncate == -1 else truncate
        token_ids = token_ids[-limit:] if limit > 0 else []
    length = len(token_ids)
    if length == 0:
        raise bad_request("The prompt has no tokens.", param)
    if (largest := max(token_ids)) >= vocab_size:
        raise bad_request(f"The model has no token {largest}, which the prompt contains.", param)
    if length >= max_model_len or length + (max_tokens or 0) > max_model_len:
        raise _context_length_exceeded(length, max_tokens, max_model_len, param)
    return token_ids, max_model_len - length if max_tokens is None else max_tokens


def _context_length_exceeded(
    length: int, max_tokens: int | None, max_model_len: int, param: str
) -> ApiError:
    asked = f"your {param} resulted in {length} tokens"
    if max_tokens is not None:
        asked = (
            f"you requested {length + max_tokens} tokens ({length} in the {param}, "
            f"{max_tokens} in the completion)"
        )
    return bad_request(
        f"This model's maximum context length is {max_model_len} tokens. However, {asked}. "
        f"Please reduce the length of the {param} or completion.",
        param,
        "context_length_exceeded",
    )


def template_tools(
    tools: Sequence[ToolDefinition], names: ToolNames = AS_GIVEN
) -> list[dict[str, Any]]:
    """Tools as templates expect them: with a description and parameters, if only empty ones, and
    without fields for the server (`strict`).
    """
    shown: list[dict[str, Any]] = []
    for tool in tools:
        function = tool.function
        parameters = function.parameters
        if not isinstance(parameters, dict):
            parameters = {"type": "object", "properties": {}}
        described = {
            "name": names.written(function.name),
            "description": function.description or "",
            "parameters": parameters,
        }
        shown.append({"type": "function", "function": described})
    return shown


def template_message(
    message: Message, template: TemplateTraits, names: ToolNames = AS_GIVEN
) -> dict[str, Any]:
    role: str = message.role
    if role == "developer" and not template.knows_developer:
        role = "system"
    elif role == "function":
        role = "tool"
    shown: dict[str, Any] = {"role": role, "content": _content(message, template)}
    if message.name is not None:
        shown["name"] = names.written(message.name) if role == "tool" else message.name
    if message.tool_call_id is not None:
        shown["tool_call_id"] = _call_id(message.tool_call_id, template)
    if message.tool_calls:
        shown["tool_calls"] = [_tool_call(call, template, names) for call in message.tool_calls]
    reasoning = message.reasoning_content or message.reasoning
    if message.role == "assistant" and reasoning:
        # Templates use one name or the other.
        shown["reasoning_content"] = shown["reasoning"] = reasoning
    return shown


def _content(message: Message, template: TemplateTraits) -> str | list[dict[str, str]] | None:
    content = message.content
    if content is None:
        if template.wants_parts:
            return []
        # DeepSeek's template shows the calls only of a message without content.
        return None if message.tool_calls else ""
    text = message_text(message)
    if template.wants_parts:
        return [{"type": "text", "text": text}]
    return text


def message_text(message: Message) -> str:
    """The content as one text. Parts are joined such that no special token forms across them."""
    content = message.content
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(map(_part_text, content))


def _part_text(part: ContentPart) -> str:
    if part.type in TEXT_PARTS:
        return part.text or ""
    return "" if part.type in NO_TEXT_PARTS else unseen_part(part.type, part.model_extra or {})


def _texts(messages: Sequence[Message]) -> Iterator[str]:
    """The texts of the messages, without tools."""
    for message in messages:
        yield message_text(message)
        yield message.reasoning_content or message.reasoning or ""
        for call in message.tool_calls or ():
            yield str(call.function.arguments)


def _tool_call(call: ToolCall, template: TemplateTraits, names: ToolNames) -> dict[str, Any]:
    arguments: Any = call.function.arguments
    if isinstance(arguments, str) and not template.wants_arguments_text:
        try:
            parsed = from_json(arguments) if arguments.strip() else {}
        except ValueError:  # not JSON, or too deep for a template
            parsed = None
        # Another server's call may not be JSON; the model sees its text.
        arguments = parsed if isinstance(parsed, dict) else arguments
    elif isinstance(arguments, dict) and template.wants_arguments_text:
        arguments = json.dumps(arguments, ensure_ascii=False)
    elif arguments is None:
        arguments = "{}" if template.wants_arguments_text else {}
    shown: dict[str, Any] = {
        "type": "function",
        "function": {"name": names.written(call.function.name), "arguments": arguments},
    }
    if call.id is not None:
        shown["id"] = _call_id(call.id, template)
    return shown


def _call_id(call_id: str, template: TemplateTraits) -> str:
    """`call_id`, or a nine-character hash of it if the template, like Mistral's, refuses other
    lengths."""
    if not template.wants_short_call_ids or _SHORT_ID.fullmatch(call_id):
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:9]


def _mark_end(message: dict[str, Any]) -> str:
    """Append a unique mark to the message's text and return the mark."""
    content = message["content"]
    mark = "q" + hashlib.sha256(json.dumps(message).encode()).hexdigest()
    if isinstance(content, str):
        message["content"] = content + mark
    elif not content:
        message["content"] = [{"type": "text", "text": mark}]
    else:
        message["content"] = [*content[:-1], {"type": "text", "text": content[-1]["text"] + mark}]
    return mark
