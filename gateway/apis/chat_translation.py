"""What the APIs share whose requests are answered as chat requests: how one is made, and how its
errors name the fields of the client's own request.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from formgate.gateway.errors import ApiError, bad_request
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.fields import RequestBody
from formgate.gateway.protocol.parse import parse_object

# Fields of a chat request that these endpoints have under another name, or have no place for in
# their answers. Passing them on would change an answer in a way that it cannot show.
_CHAT_ONLY = frozenset(
    {
        "add_generation_prompt",
        "continue_final_message",
        "documents",
        "echo",
        "function_call",
        "functions",
        "include_reasoning",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "modalities",
        "n",
        "prompt_logprobs",
        "reasoning_effort",
        "response_format",
        "return_token_ids",
        "stream_options",
    }
)
_MESSAGE = re.compile(r"messages\[(\d+)\]")
_TOOL = re.compile(r"tools\[(\d+)\](?:\.(?:function|custom)\b)?")


@dataclass(frozen=True)
class FieldNames:
    """How a client calls the fields of the chat request that was made of its own."""

    patterns: Sequence[tuple[str, str]]  # of the chat's field, with its replacement
    messages: Sequence[str] = ()  # by message of the chat, the field that it came in
    tools: Sequence[str] = ()  # likewise

    @contextmanager
    def in_errors(self) -> Generator[None]:
        try:
            yield
        except ApiError as error:
            raise self._translated(error) from error

    def _translated(self, error: ApiError) -> ApiError:
        if error.param is None:
            return error
        field, hash_, pointer = error.param.partition("#")
        name = self._name(field)
        return ApiError(
            error.status,
            error.message.replace(f"'{field}", f"'{name}"),  # its own parts too: 'field.part'
            name + hash_ + pointer,
            error.code,
            error.type,
            headers=error.headers,
        )

    def _name(self, param: str) -> str:
        message = _MESSAGE.match(param)
        if message is not None and int(message[1]) < len(self.messages):
            return self.messages[int(message[1])] + param[message.end() :]
        tool = _TOOL.match(param)
        if tool is not None and int(tool[1]) < len(self.tools):
            rest = param[tool.end() :].replace(".format.grammar", ".format", 1)
            return self.tools[int(tool[1])] + rest
        for pattern, replacement in self.patterns:
            name, found = re.subn("^" + pattern, replacement, param)
            if found:
                return name
        return param


def chat_request(
    request: RequestBody, fields: Mapping[str, Any], names: FieldNames
) -> ChatCompletionRequest:
    """The streamed chat request of `fields` and of what the client wrote in `request` beyond its
    endpoint's own fields, so that the server's extensions work everywhere. Raises ApiError 400."""
    extra = request.model_extra or {}
    further = {name: value for name, value in extra.items() if value is not None}
    for name in further:
        if name in _CHAT_ONLY or name in fields:
            raise bad_request(
                f"'{name}' is no parameter of this endpoint.", name, "unsupported_parameter"
            )
    given = {name: value for name, value in fields.items() if value is not None}
    with names.in_errors():
        return parse_object(
            ChatCompletionRequest,
            {**further, **given},
            num_bytes=request.num_bytes,
        )
