"""`/v1/models`: the names that a request's `model` may have."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from formgate.gateway.http.state import GatewayState, state_of

router = APIRouter(tags=["models"])

State = Annotated[GatewayState, Depends(state_of)]


@router.get("/v1/models")
async def list_models(state: State) -> dict[str, Any]:
    """The served model and its adapters."""
    return {
        "object": "list",
        "data": [
            state.models.card(name, _max_model_len(state)) for name in state.models.all_names()
        ],
    }


@router.get("/v1/models/{name:path}")
async def get_model(name: str, state: State) -> dict[str, Any]:
    """One model by its id."""
    return state.models.card(state.models.resolve(name), _max_model_len(state))


def _max_model_len(state: GatewayState) -> int | None:
    return state.engine.ready.max_model_len if state.engine.ready else None
