"""The bodies of `POST /tokenize` and `POST /detokenize`, as types."""

from __future__ import annotations

from formgate.gateway.protocol.chat import Messages, TemplateArguments, Tools
from formgate.gateway.protocol.fields import ModelName, RequestBody, TokenIds


class TokenizeRequest(RequestBody):
    """Either `prompt`, or `messages` with the fields that determine a chat prompt."""

    model: ModelName | None = None
    prompt: str | None = None
    messages: Messages | None = None
    tools: Tools | None = None
    add_special_tokens: bool | None = None  # true for a prompt, false for a chat
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: TemplateArguments | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(RequestBody):
    model: ModelName | None = None
    tokens: TokenIds
