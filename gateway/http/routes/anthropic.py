"""`/v1/messages` and `/v1/messages/count_tokens`: Anthropic's API, with named events and its own
error format.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from formgate.gateway.apis.anthropic_errors import PATH, anthropic_error
from formgate.gateway.http.request_body import json_body, request_body_schema
from formgate.gateway.http.routes.generation import answer
from formgate.gateway.http.sse import EventStyle, encode_named_events
from formgate.gateway.http.state import GatewayState, state_of
from formgate.gateway.protocol.anthropic import CountTokensRequest, MessagesRequest

router = APIRouter(tags=["anthropic"])

State = Annotated[GatewayState, Depends(state_of)]

COUNT_EXAMPLE = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
MESSAGES_EXAMPLE = COUNT_EXAMPLE | {"max_tokens": 64, "temperature": 0}
EVENTS = EventStyle(encode_named_events, anthropic_error, b"")


@router.post(PATH, openapi_extra=request_body_schema(MessagesRequest, MESSAGES_EXAMPLE))
async def create_message(
    request: Request,
    body: Annotated[MessagesRequest, Depends(json_body(MessagesRequest))],
    state: State,
) -> Response:
    """Answer a conversation, in one piece or as server-sent events (`stream`)."""
    return await answer(request, body, state.messages, state, EVENTS)


@router.post(
    f"{PATH}/count_tokens", openapi_extra=request_body_schema(CountTokensRequest, COUNT_EXAMPLE)
)
async def count_tokens(
    body: Annotated[CountTokensRequest, Depends(json_body(CountTokensRequest))],
    state: State,
) -> dict[str, int]:
    """The number of prompt tokens of a conversation."""
    await state.adapters.resolve(body.model)
    ready = state.engine.ready
    return {
        "input_tokens": await state.messages.count_tokens(
            body, max_model_len=ready.max_model_len if ready else None
        )
    }
