"""`/tokenize` and `/detokenize`: text or a conversation to token ids, and back."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from formgate.gateway.errors import bad_request
from formgate.gateway.protocol.tokenize import DetokenizeRequest, TokenizeRequest
from formgate.gateway.request_body import json_body, request_body_schema
from formgate.gateway.state import GatewayState, state_of

router = APIRouter(tags=["tokens"])

State = Annotated[GatewayState, Depends(state_of)]

TOKENIZE_EXAMPLE = {"prompt": "Hello, world!"}
DETOKENIZE_EXAMPLE = {"tokens": [1, 2, 3]}


@router.post("/tokenize", openapi_extra=request_body_schema(TokenizeRequest, TOKENIZE_EXAMPLE))
async def tokenize(
    body: Annotated[TokenizeRequest, Depends(json_body(TokenizeRequest))], state: State
) -> dict[str, Any]:
    """The token ids of a text (`prompt`) or of a conversation (`messages`)."""
    state.models.resolve(body.model)
    token_ids = await asyncio.to_thread(state.tokenize, body)
    answer: dict[str, Any] = {
        "count": len(token_ids),
        "max_model_len": state.engine.ready.max_model_len if state.engine.ready else None,
        "tokens": token_ids,
        "token_strs": None,
    }
    if body.return_token_strs:
        answer["token_strs"] = [state.tokenizer.token_text(token_id) for token_id in token_ids]
    return answer


@router.post(
    "/detokenize", openapi_extra=request_body_schema(DetokenizeRequest, DETOKENIZE_EXAMPLE)
)
async def detokenize(
    body: Annotated[DetokenizeRequest, Depends(json_body(DetokenizeRequest))], state: State
) -> dict[str, str]:
    """The text of token ids."""
    state.models.resolve(body.model)
    size = state.tokenizer.size
    for i, token_id in enumerate(body.tokens):
        if not 0 <= token_id < size:
            raise bad_request(f"No token has id {token_id}.", f"tokens[{i}]")
    return {"prompt": await asyncio.to_thread(state.tokenizer.decode, body.tokens)}
