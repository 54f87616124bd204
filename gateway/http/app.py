"""The ASGI application: routes, middleware and error handlers, over a finished state. It starts
nothing.
"""

from __future__ import annotations

import http
import importlib.metadata
from collections.abc import Sequence, Set
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from formgate.gateway.errors import ApiError, bad_request
from formgate.gateway.http.middleware import (
    INSIGHTS,
    OPEN,
    UNENFORCED,
    ApiKeys,
    BodyLimit,
    RequestContext,
    error_response,
)
from formgate.gateway.http.response_counter import ResponseCounter
from formgate.gateway.http.routes import (
    adapters,
    anthropic,
    docs,
    generation,
    health,
    models,
    playground,
    responses,
    schema_check,
    tokenization,
)
from formgate.gateway.http.state import GatewayState
from formgate.gateway.protocol.adapters import LoadAdapterRequest, UnloadAdapterRequest
from formgate.gateway.protocol.anthropic import CountTokensRequest, MessagesRequest
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.completion import CompletionRequest
from formgate.gateway.protocol.responses import ResponsesRequest
from formgate.gateway.protocol.schema_check import SchemaCheckRequest
from formgate.gateway.protocol.tokenize import DetokenizeRequest, TokenizeRequest

TITLE = "formgate"
BEARER = {"type": "http", "scheme": "bearer"}


class Gateway(FastAPI):
    """FastAPI whose OpenAPI schema also holds the request models that the routes parse themselves,
    and the API key, if one is needed.
    """

    request_models: Sequence[type[BaseModel]] = ()
    open_paths: Set[str] | None = None  # need no key; None: no path does

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            schema = get_openapi(
                title=self.title, version=self.version, routes=self.routes, servers=self.servers
            )
            _, definitions = models_json_schema(
                [(model, "validation") for model in self.request_models],
                ref_template="#/components/schemas/{model}",
            )
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas.update(definitions["$defs"])
            if self.open_paths is not None:
                schema["components"]["securitySchemes"] = {"key": BEARER}
                for path in schema["paths"].keys() - self.open_paths:
                    for operation in schema["paths"][path].values():
                        operation["security"] = [{"key": []}]
            self.openapi_schema = schema
        return self.openapi_schema


def create_app(state: GatewayState) -> FastAPI:
    config = state.config
    app = Gateway(
        title=TITLE,
        version=importlib.metadata.version("formgate"),
        docs_url=None,  # FastAPI's own page loads Swagger UI from a CDN
        redoc_url=None,
    )
    app.request_models = (
        ChatCompletionRequest,
        CompletionRequest,
        ResponsesRequest,
        MessagesRequest,
        CountTokensRequest,
        TokenizeRequest,
        DetokenizeRequest,
        SchemaCheckRequest,
        LoadAdapterRequest,
        UnloadAdapterRequest,
    )
    app.state.gateway = state
    routes = list(app.routes)
    page = () if config.disable_playground else (playground,)
    for module in (
        generation,
        responses,
        anthropic,
        models,
        adapters,
        tokenization,
        schema_check,
        health,
        docs,
        *page,
    ):
        app.include_router(module.router)
        routes += module.router.routes

    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)

    # The middleware added last sees a request first.
    app.add_middleware(BodyLimit, max_bytes=config.max_body_bytes)
    if config.api_key:
        app.open_paths = OPEN - INSIGHTS if config.protect_metrics else OPEN
        if page:
            app.open_paths |= playground.PATHS
        app.add_middleware(ApiKeys, keys=config.api_key, open_paths=app.open_paths)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=config.allowed_origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["x-request-id", UNENFORCED],
    )
    app.add_middleware(ResponseCounter, routes=routes, count=state.metrics.http_response)
    app.add_middleware(RequestContext, log_requests=not config.disable_log_requests)
    return app


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error, request.scope)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """For unknown paths and methods; the framework raises HTTPException for nothing else."""
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path[:200]}"
    match error.status_code:
        case 404:
            answer = ApiError(404, f"Unknown request URL: {where}.", None, "unknown_url")
        case 405:
            answer = ApiError(405, f"Not allowed: {where}.", None, "method_not_allowed")
        case status:
            answer = ApiError(status, f"{http.HTTPStatus(status).phrase}.")
    answer.headers.update(error.headers or {})
    return error_response(answer, request.scope)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return error_response(bad_request(f"{first['msg']}.", str(first["loc"][-1])), request.scope)
