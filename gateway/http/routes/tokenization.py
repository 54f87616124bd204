"""`/tokenize` and `/detokenize`: a text or conversation to token ids, and token ids to text."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from formgate.gateway.errors import bad_request
from formgate.gateway.http.request_body import json_body, request_body_schema
from formgate.gateway.http.sse import encode_json
from formgate.gateway.http.state import GatewayState, state_of
from formgate.gateway.model.text_bound import bound_of_count
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.protocol.tokenize import DetokenizeRequest, TokenizeRequest

router = APIRouter(tags=["tokens"])

State = Annotated[GatewayState, Depends(state_of)]

TOKENIZE_EXAMPLE = {"prompt": "Hello, world!"}
DETOKENIZE_EXAMPLE = {"tokens": [1, 2, 3]}


@router.post("/tokenize", openapi_extra=request_body_schema(TokenizeRequest, TOKENIZE_EXAMPLE))
async def tokenize(
    body: Annotated[TokenizeRequest, Depends(json_body(TokenizeRequest))], state: State
) -> Response:
    """The token ids of a text (`prompt`) or of a conversation (`messages`)."""
    await state.adapters.resolve(body.model)
    max_model_len = state.engine.ready.max_model_len if state.engine.ready else None

    def answer() -> bytes:
        token_ids = state.tokenize(body, bound_of_count(max_model_len))
        texts = None
        if body.return_token_strs:
            texts = [state.tokenizer.token_text(token_id) for token_id in token_ids]
        return encode_json(
            {
                "count": len(token_ids),
                "max_model_len": max_model_len,
                "tokens": token_ids,
                "token_strs": texts,
            }
        )

    whole = await state.threads.run(answer)
    return Response(whole, media_type="application/json")


@router.post(
    "/detokenize", openapi_extra=request_body_schema(DetokenizeRequest, DETOKENIZE_EXAMPLE)
)
async def detokenize(
    body: Annotated[DetokenizeRequest, Depends(json_body(DetokenizeRequest))], state: State
) -> Response:
    """The text of token ids."""
    await state.adapters.resolve(body.model)
    answer = partial(_detokenized, body.tokens, state.tokenizer)
    whole = await state.threads.run(answer)
    return Response(whole, media_type="application/json")


def _detokenized(tokens: list[int], tokenizer: Tokenizer) -> bytes:
    if tokens and (largest := max(tokens)) >= tokenizer.size:
        raise bad_request(f"No token has id {largest}.", f"tokens[{tokens.index(largest)}]")
    return encode_json({"prompt": tokenizer.decode(tokens)})
