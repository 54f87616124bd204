"""JSON bodies of routes: parsed by `protocol.parse`, whatever the Content-Type, and still described
in the OpenAPI schema.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import Request

from formgate.gateway.protocol.fields import RequestBody
from formgate.gateway.protocol.json_text import SMALL_TEXT
from formgate.gateway.protocol.parse import parse_body

M = TypeVar("M", bound=RequestBody)


def json_body(model: type[M]) -> Callable[[Request], Awaitable[M]]:
    """A FastAPI dependency that parses the body. FastAPI's own parses twice, accepts lone
    surrogates and refuses `curl -d` without a header.
    """

    async def read(request: Request) -> M:
        body = await request.body()
        if len(body) <= SMALL_TEXT:
            return parse_body(model, body)
        return await asyncio.to_thread(parse_body, model, body)

    return read


def request_body_schema(model: type[BaseModel], example: Mapping[str, Any]) -> dict[str, Any]:
    """`openapi_extra` for a route that depends on `json_body(model)`."""
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    content = {"application/json": {"schema": reference, "example": example}}
    return {"requestBody": {"required": True, "content": content}}
