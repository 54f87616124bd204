"""`/v1/responses`: OpenAI's newer API, with named events and no `[DONE]` at the end."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from formgate.gateway.errors import ApiError
from formgate.gateway.http.request_body import json_body, request_body_schema
from formgate.gateway.http.routes.generation import answer
from formgate.gateway.http.sse import EventStyle, encode_named_events
from formgate.gateway.http.state import GatewayState, state_of
from formgate.gateway.protocol.responses import ResponsesRequest

router = APIRouter(tags=["generation"])

RESPONSES_EXAMPLE = {"input": "What is the capital of France?", "temperature": 0}


def _error_event(error: ApiError) -> dict[str, Any]:
    """For unexpected exceptions: the service reports known errors as a failed response."""
    return {
        "type": "error",
        "sequence_number": 0,
        "code": error.code,
        "message": error.message,
        "param": error.param,
    }


EVENTS = EventStyle(encode_named_events, _error_event, b"")


@router.post(
    "/v1/responses", openapi_extra=request_body_schema(ResponsesRequest, RESPONSES_EXAMPLE)
)
async def create_response(
    request: Request,
    body: Annotated[ResponsesRequest, Depends(json_body(ResponsesRequest))],
    state: Annotated[GatewayState, Depends(state_of)],
) -> Response:
    """Answer a conversation of items, in one piece or as server-sent events (`stream`). Nothing is
    stored."""
    return await answer(request, body, state.responses, state, EVENTS)
