"""Health, readiness, version and metrics of the server."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from formgate.gateway.http.routes import playground
from formgate.gateway.http.state import GatewayState, state_of

router = APIRouter(tags=["server"])

State = Annotated[GatewayState, Depends(state_of)]


@router.get("/health")
async def health(state: State) -> Response:
    """200 while the engine is alive and ready, 503 otherwise. A server that shuts down stays
    healthy until it stops answering, but not with `--shutdown-delay`, which is for load balancers
    that ask this path."""
    leaves = state.config.shutdown_delay > 0 and state.shutdown.asked.is_set()
    healthy = state.engine.state == "ready" and not leaves
    return Response(status_code=200 if healthy else 503)


@router.get("/ready")
async def ready(state: State) -> Response:
    """200 if a request would be accepted now: the engine is ready, the queue is not full, and the
    server is not shutting down."""
    state.shutdown.ensure_unasked()
    state.engine.ensure_admission()
    return Response(status_code=200)


@router.get("/ping")
@router.post("/ping", include_in_schema=False)
async def ping(state: State) -> Response:
    """The same as `/health`, under the name that SageMaker calls."""
    return await health(state)


@router.get("/version")
async def version() -> dict[str, str]:
    """The version of formgate."""
    return {"version": importlib.metadata.version("formgate")}


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(state: State) -> Response:
    """Prometheus metrics, under vLLM's names and `formgate:`."""
    return Response(await state.exposition(), media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
async def root(request: Request, state: State) -> Response:
    """The playground for a browser, and for all others a few lines."""
    shown = not state.config.disable_playground
    if shown and playground.asks_for_a_page(request):
        return playground.file_response(playground.INDEX, Vary="Accept")
    invitation = "GET  /playground           a page to try it on\n" if shown else ""
    return PlainTextResponse(
        f"formgate {importlib.metadata.version('formgate')}, serving {state.models.default}\n\n"
        "POST /v1/chat/completions  the OpenAI API (base_url ends in /v1)\n"
        "POST /v1/responses         its newer form, nothing stored\n"
        "POST /v1/messages          the Anthropic API (base_url without /v1)\n"
        "GET  /docs                 every endpoint, to read and to try\n"
        f"{invitation}"
        "GET  /metrics              Prometheus\n"
        "GET  /health               200 when ready\n",
        headers={"Vary": "Accept"},
    )
