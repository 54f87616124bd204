"""`/v1/chat/completions` and `/v1/completions`. A service makes the answer; this module sends it,
complete or streamed.
"""

from __future__ import annotations

from typing import Annotated, Protocol, TypeVar

from fastapi import APIRouter, Depends, Request, Response

from formgate.gateway.http.answer_service import AnswerService
from formgate.gateway.http.disconnect import ClientDisconnected, until_disconnect
from formgate.gateway.http.request_body import json_body, request_body_schema
from formgate.gateway.http.sse import CHUNKS, EventStream, EventStyle, answer_within, encode_json
from formgate.gateway.http.state import GatewayState, state_of
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.completion import CompletionRequest

router = APIRouter(tags=["generation"])

State = Annotated[GatewayState, Depends(state_of)]

CHAT_EXAMPLE = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
}
COMPLETION_EXAMPLE = {"prompt": "San Francisco is a", "max_tokens": 16, "temperature": 0}
CLIENT_CLOSED_REQUEST = 499  # nginx's code: only the log shows it


@router.post(
    "/v1/chat/completions", openapi_extra=request_body_schema(ChatCompletionRequest, CHAT_EXAMPLE)
)
async def create_chat_completion(
    request: Request,
    body: Annotated[ChatCompletionRequest, Depends(json_body(ChatCompletionRequest))],
    state: State,
) -> Response:
    """Answer a conversation, in one piece or as server-sent events (`stream`)."""
    return await answer(request, body, state.chat, state)


@router.post(
    "/v1/completions", openapi_extra=request_body_schema(CompletionRequest, COMPLETION_EXAMPLE)
)
async def create_completion(
    request: Request,
    body: Annotated[CompletionRequest, Depends(json_body(CompletionRequest))],
    state: State,
) -> Response:
    """Continue a prompt, in one piece or as server-sent events (`stream`)."""
    return await answer(request, body, state.completions, state)


class Generating(Protocol):
    """The fields that all generating requests share."""

    model: str | None
    stream: bool | None


B = TypeVar("B", bound=Generating)


async def answer(
    request: Request,
    body: B,
    service: AnswerService[B],
    state: GatewayState,
    style: EventStyle = CHUNKS,
) -> Response:
    """The response of `service` to `body`: complete, or a stream of events in `style`."""
    await state.adapters.choose(body.model)
    state.shutdown.ensure_running()
    state.engine.ensure_admission()
    seconds = state.config.request_timeout or None
    if body.stream:
        return EventStream(service.stream(body), state.metrics, style, timeout=seconds)
    try:
        async with answer_within(seconds):
            whole = await until_disconnect(request.receive, service.complete(body))
    except ClientDisconnected:
        state.metrics.client_disconnected()
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return Response(encode_json(whole), media_type="application/json")
