"""The bodies of `POST /tokenize` and `POST /detokenize`, as types."""

from __future__ import annotations

from typing import Any

from formgate.gateway.protocol.chat import Message, ToolDefinition
from formgate.gateway.protocol.fields import Body, TokenIds


class TokenizeRequest(Body):
    """Either `prompt`, or `messages` with what shapes a chat prompt."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[ToolDefinition] | None = None
    add_special_tokens: bool | None = None  # true for a prompt, false for a chat
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(Body):
    model: str | None = None
    tokens: TokenIds
