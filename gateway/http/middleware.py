"""Middleware for every request: an id, a log line, a 500 for unexpected exceptions, API keys, and
the limit on bodies. Pure ASGI, so that streams pass through unchanged.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping, Sequence, Set
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from formgate.gateway.answers.caller import Caller, current_caller, set_caller
from formgate.gateway.api_keys import KeyRing, given_key
from formgate.gateway.apis.anthropic_errors import anthropic_error, is_anthropic
from formgate.gateway.errors import (
    ApiError,
    body_too_large,
    internal_error,
    invalid_api_key,
    too_many_bodies,
)
from formgate.gateway.http.routes import docs
from formgate.gateway.http.sse import encode_json

logger = logging.getLogger(__name__)

# Need a key if `protect_metrics` is set.
INSIGHTS = frozenset({"/metrics", "/openapi.json", "/docs", docs.SCRIPT, docs.STYLE})
OPEN = frozenset({"/", "/health", "/ping", "/ready", "/version"}) | INSIGHTS  # need no key
QUIET = frozenset(
    {"/health", "/ping", "/ready", "/metrics"}
)  # not logged: probes and scrapers call them every second
UNENFORCED = "x-formgate-unenforced"  # names tool, keyword and pointer of what a mask left out
MAX_REQUEST_ID_CHARS = 128
MAX_BODIES = 64  # incomplete bodies of the largest size; more if smaller
MAX_LOGGED_PATH = 200  # characters


def error_response(error: ApiError, scope: Scope) -> Response:
    """The response to `error`, in the error format of the API that `scope` calls."""
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


def set_refusal(scope: Scope, status: int) -> None:
    """Record that the connection answers `status` itself, in place of the application, which sees
    a client that left: a fault in a body, or one that is late."""
    scope.setdefault("state", {})["refusal"] = status


def refusal_of(scope: Scope) -> int | None:
    """The status given to `set_refusal`."""
    status: int | None = scope.get("state", {}).get("refusal")
    return status


def _path(scope: Scope) -> str:
    return str(scope["path"]).removeprefix(str(scope.get("root_path", "")))


class RequestContext:
    """Assigns a request id (`X-Request-Id`; the client's own if it is valid), logs the finished
    request, and answers 500 for an unexpected exception.
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
        caller = Caller()
        set_caller(caller)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.append("x-request-id", request_id)
                if caller.unenforced:
                    headers.append(UNENFORCED, caller.unenforced)
                if is_anthropic(_path(scope)):
                    headers.append("request-id", request_id)  # the SDK reads this one
            await send(message)

        began = time.monotonic()
        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            pass  # it left while sending its body: no answer, no error
        except Exception:
            logger.exception("Request %s failed", request_id)
            if status:
                raise  # the status is sent: the server cuts the connection
            error = internal_error(f"The server had an error. It is logged as {request_id}.")
            await error_response(error, scope)(scope, receive, send_with_id)
        finally:
            if self._log_requests and scope["path"] not in QUIET:
                seconds = time.monotonic() - began
                fields = {
                    "method": scope["method"],
                    "path": scope["path"][:MAX_LOGGED_PATH],
                    "status": refusal_of(scope) or status or "cut",
                    "seconds": round(seconds, 3),
                    "request_id": request_id,
                    **caller.log_fields(),
                }
                logger.info(
                    "%(method)s %(path)s %(status)s in %(seconds).3f s, %(request_id)s%(more)s",
                    fields | {"more": _in_words(caller.log_fields())},
                    extra={"fields": fields},
                )


def _in_words(fields: Mapping[str, Any]) -> str:
    return "".join(f", {name} {value}" for name, value in fields.items())


def _request_id(given: str | None) -> str:
    if given and len(given) <= MAX_REQUEST_ID_CHARS and given.isascii() and given.isprintable():
        return given
    return uuid.uuid4().hex


class ApiKeys:
    """Refuses requests without a valid key, except for `open_paths`. A path must equal one of these
    exactly, so that no spelling evades the check.
    """

    def __init__(self, app: ASGIApp, *, keys: Sequence[str], open_paths: Set[str] = OPEN) -> None:
        self._app = app
        self._keys = KeyRing(keys)
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        key = self._keys.find(headers)
        if key is not None:
            current_caller().key = key
        elif _path(scope) not in self._open_paths:
            refusal = error_response(invalid_api_key(given=bool(given_key(headers))), scope)
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)


class BodyLimit:
    """Answers 413 if a body exceeds the limit, and 503 if all incomplete bodies together exceed
    theirs. Counts bytes as they arrive.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._num_held = 0  # bytes of all incomplete bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > self._max_bytes:
            # Receives nothing: a client that waits for `100 Continue` need not send its body.
            await error_response(body_too_large(self._max_bytes), scope)(scope, receive, send)
            return
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                length = len(message.get("body", b""))
                received += length
                self._num_held += length
                if received > self._max_bytes:
                    raise body_too_large(self._max_bytes)
                if not message.get("more_body", False):
                    self._num_held -= received
                    received = 0
                elif self._num_held > MAX_BODIES * self._max_bytes:
                    raise too_many_bodies()
            return message

        try:
            await self._app(scope, receive_counted, send)
        finally:
            self._num_held -= received
