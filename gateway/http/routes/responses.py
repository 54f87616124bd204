"""`/v1/responses`: OpenAI's newer API. Its events have names, and its stream ends with the last."""

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
    """For our own bugs only: the service tells the errors that it knows of as a failed response."""
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
