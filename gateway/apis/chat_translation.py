"""Shared by the APIs that translate their requests to chat requests: the translation's frame, and
errors that name the fields of the client's own request.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from formgate.gateway.errors import ApiError, bad_request
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.fields import RequestBody
from formgate.gateway.protocol.parse import parse_object

# Chat fields that these endpoints have under another name, or whose effect their responses cannot
# show. They are refused.
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


class Places:
    """Maps fields of the chat request to fields of the client's own body. The translation notes
    each field as it writes it; an error about the chat request then names the client's field.
    """

    def __init__(self, fields: Mapping[str, str]) -> None:
        """`fields`: from a field of the chat request to a field of the client's body."""
        self._places = dict(fields)

    def note(self, chat_place: str, place: str) -> None:
        self._places[chat_place] = place

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
        place = self._place(field)
        return ApiError(
            error.status,
            error.message.replace(f"'{field}", f"'{place}"),  # its own parts too: 'field.part'
            place + hash_ + pointer,
            error.code,
            error.type,
            headers=error.headers,
        )

    def _place(self, field: str) -> str:
        """The client's field for the longest noted prefix of `field`."""
        end = len(field)
        while end > 0:
            if (place := self._places.get(field[:end])) is not None:
                return place + field[end:]
            end = max(field.rfind(".", 0, end), field.rfind("[", 0, end))
        return field


class Conversation:
    """The messages of a chat request. Notes the field that each was made of."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self.messages: list[dict[str, Any]] = []

    def add(self, message: dict[str, Any], place: str) -> dict[str, Any]:
        self._places.note(f"messages[{len(self.messages)}]", place)
        self.messages.append(message)
        return message


def required(value: Any, param: str) -> Any:
    if value is None:
        raise bad_request(
            f"Missing required parameter: '{param}'.", param, "missing_required_parameter"
        )
    return value


def chat_request(
    request: RequestBody, fields: Mapping[str, Any], places: Places
) -> ChatCompletionRequest:
    """The chat request with `fields`, and with the unknown fields of `request`, so that the
    server's extensions work on every endpoint. Raises ApiError 400."""
    extra = request.model_extra or {}
    further = {name: value for name, value in extra.items() if value is not None}
    for name in further:
        if name in _CHAT_ONLY or name in fields:
            raise bad_request(
                f"'{name}' is no parameter of this endpoint.", name, "unsupported_parameter"
            )
    given = {name: value for name, value in fields.items() if value is not None}
    with places.in_errors():
        return parse_object(
            ChatCompletionRequest,
            {**further, **given},
            num_bytes=request.num_bytes,
        )
