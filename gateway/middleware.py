"""What happens to every request before the routes: an id and a log line, the last resort for our
own bugs, API keys, and the limit on bodies. Pure ASGI, so that streams pass through untouched.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from formgate.gateway.anthropic_errors import anthropic_error, is_anthropic
from formgate.gateway.errors import ApiError, body_too_large, internal_error, invalid_api_key
from formgate.gateway.sse import encode_json

logger = logging.getLogger(__name__)

GUARDED = ("/v1/", "/tokenize", "/detokenize")
QUIET = frozenset({"/health", "/ping", "/ready", "/metrics"})  # probes and scrapers, every second
MAX_REQUEST_ID_CHARS = 128
DRAIN_TIMEOUT = 2.0  # seconds
DRAIN_BYTES = 64 * 1024 * 1024


def error_response(error: ApiError, scope: Scope) -> Response:
    """In the shape of the API that `scope` is a call of."""
    if is_anthropic(_path(scope)):
        body = anthropic_error(error, scope.get("state", {}).get("request_id"))
    else:
        body = error.body()
    return Response(
        encode_json(body),
        status_code=error.status,
        headers=error.headers,
        media_type="application/json",
    )


def _path(scope: Scope) -> str:
    return str(scope["path"]).removeprefix(str(scope.get("root_path", "")))


class RequestContext:
    """Gives each request an id (`X-Request-Id`, the client's if it sends a sound one), logs it when
    it is done, and answers 500 for an exception that nobody expected.
    """

    def __init__(self, app: ASGIApp, *, log_requests: bool) -> None:
        self._app = app
        self._log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope).get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        scope["state"]["send"] = send
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.append("x-request-id", request_id)
                if is_anthropic(_path(scope)):
                    headers.append("request-id", request_id)  # where its SDK looks
            await send(message)

        began = time.monotonic()
        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            pass  # it left while its body was on the way: nobody to answer, nothing failed
        except Exception:
            logger.exception("Request %s failed", request_id)
            if status:
                raise  # too late for an answer: the server cuts the connection
            error = internal_error(f"The server had an error. It is logged as {request_id}.")
            await error_response(error, scope)(scope, receive, send_with_id)
        finally:
            if self._log_requests and scope["path"] not in QUIET:
                logger.info(
                    "%s %s %s in %.3f s, %s",
                    scope["method"],
                    scope["path"],
                    status or "cut",
                    time.monotonic() - began,
                    request_id,
                )


def _request_id(given: str | None) -> str:
    if given and len(given) <= MAX_REQUEST_ID_CHARS and given.isascii() and given.isprintable():
        return given
    return uuid.uuid4().hex


class ApiKeys:
    """Refuses calls to the API without one of the keys. Health, metrics and docs stay open."""

    def __init__(self, app: ASGIApp, *, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._guards(scope):
            await self._app(scope, receive, send)
            return
        key = _given_key(Headers(scope=scope))
        # Every key is compared, so the time tells nothing about which one was near.
        matches = [hmac.compare_digest(key.encode(), known) for known in self._keys]
        if any(matches):
            await self._app(scope, receive, send)
        else:
            refusal = error_response(invalid_api_key(given=bool(key)), scope)
            await refusal(scope, receive, send)

    def _guards(self, scope: Scope) -> bool:
        return scope["method"] != "OPTIONS" and _path(scope).startswith(GUARDED)


def _given_key(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return headers.get("x-api-key", "")


class BodyLimit:
    """Ends a request whose body grows over the limit with 413. The body is counted while it is
    received: no more than the limit is ever in memory.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > self._max_bytes:
            await _drain(receive)
            await error_response(body_too_large(self._max_bytes), scope)(scope, receive, send)
            return
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._max_bytes:
                    await _drain(receive)
                    raise body_too_large(self._max_bytes)
            return message

        await self._app(scope, receive_counted, send)


async def _drain(receive: Receive) -> None:
    """Throw away what is still under way, within reason: a client that is cut off while it sends
    often never reads the answer.
    """
    dropped = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_TIMEOUT):
            while dropped < DRAIN_BYTES:
                message = await receive()
                dropped += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
