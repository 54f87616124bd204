"""`/v1/load_lora_adapter` and `/v1/unload_lora_adapter`: vLLM's, for adapters at run time."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from formgate.gateway.http.request_body import json_body, request_body_schema
from formgate.gateway.http.state import GatewayState, state_of
from formgate.gateway.protocol.adapters import LoadAdapterRequest, UnloadAdapterRequest

router = APIRouter(tags=["adapters"])

State = Annotated[GatewayState, Depends(state_of)]

LOAD_EXAMPLE = {"lora_name": "sql-adapter", "lora_path": "/adapters/sql"}
UNLOAD_EXAMPLE = {"lora_name": "sql-adapter"}


@router.post(
    "/v1/load_lora_adapter",
    openapi_extra=request_body_schema(LoadAdapterRequest, LOAD_EXAMPLE),
)
async def load_adapter(
    body: Annotated[LoadAdapterRequest, Depends(json_body(LoadAdapterRequest))], state: State
) -> Response:
    """Serve a PEFT folder under a name."""
    await state.adapters.load(body)
    return _success(body.lora_name, "added")


@router.post(
    "/v1/unload_lora_adapter",
    openapi_extra=request_body_schema(UnloadAdapterRequest, UNLOAD_EXAMPLE),
)
async def unload_adapter(
    body: Annotated[UnloadAdapterRequest, Depends(json_body(UnloadAdapterRequest))], state: State
) -> Response:
    """Serve a name no more. Its running requests go on."""
    await state.adapters.unload(body)
    return _success(body.lora_name, "removed")


def _success(name: str, done: str) -> Response:
    text = f"Success: LoRA adapter '{name}' {done} successfully."
    return Response(text, media_type="text/plain; charset=utf-8")
