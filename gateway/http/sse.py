"""Server-sent events: encodes chunks as `data:` lines and writes those of one engine step at once.
It knows nothing of their content.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from formgate.gateway.errors import ApiError, answer_timeout, internal_error
from formgate.gateway.http.disconnect import ClientDisconnected, until_disconnect
from formgate.gateway.metrics import Metrics

logger = logging.getLogger(__name__)

Payload = Mapping[str, Any] | msgspec.Struct | BaseModel | bytes
Chunk = Payload | Sequence[Payload]

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # otherwise nginx buffers the events
]
DONE = b"data: [DONE]\n\n"


def encode_json(payload: Payload) -> bytes:
    """The payload as JSON; bytes are returned unchanged."""
    match payload:
        case bytes():
            return payload
        case msgspec.Struct():
            return msgspec.json.encode(payload)
        case BaseModel():
            return payload.model_dump_json(exclude_unset=True).encode()
        case _:
            try:
                return orjson.dumps(payload)
            except TypeError:  # integers of more than 64 bits, where a request's values are echoed
                return to_json(payload, inf_nan_mode="null")


def encode_events(chunk: Chunk) -> bytes:
    if type(chunk) is list and len(chunk) == 1 and type(chunk[0]) is dict:  # the common case
        return b"data: %b\n\n" % orjson.dumps(chunk[0])
    if isinstance(chunk, Sequence) and not isinstance(chunk, bytes):
        return b"".join(b"data: %b\n\n" % encode_json(payload) for payload in chunk)
    return b"data: %b\n\n" % encode_json(chunk)


def encode_named_events(chunk: Chunk) -> bytes:
    """Encode events that are named by the payload's `type`."""
    payloads = chunk if isinstance(chunk, Sequence) and not isinstance(chunk, bytes) else (chunk,)
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (payload["type"].encode(), encode_json(payload))
        for payload in payloads
        if isinstance(payload, Mapping)
    )


@dataclass(frozen=True)
class EventStyle:
    """How an API encodes its events, its error event and the end of its stream."""

    encode: Callable[[Chunk], bytes]
    error: Callable[[ApiError], Payload]
    end: bytes


CHUNKS = EventStyle(encode_events, ApiError.body, DONE)


def direct_send(scope: Scope, send: Send) -> Send:
    """The outermost `send`, kept by RequestContext. It skips the middleware, which reads only the
    start of a response but costs a coroutine call for every event."""
    direct: Send = scope.get("state", {}).get("send", send)
    return direct


@asynccontextmanager
async def answer_within(seconds: float | None) -> AsyncIterator[None]:
    """Raises ApiError 504 if the block takes longer than `seconds`."""
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError:
        if seconds is None or not limit.expired():
            raise
        raise answer_timeout(seconds) from None


class EventStream(Response):
    """Streams chunks as they arrive. An error before the first chunk is raised and becomes an error
    response; a later one becomes an event, since the status has been sent.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[Chunk],
        metrics: Metrics,
        style: EventStyle = CHUNKS,
        *,
        timeout: float | None = None,
    ) -> None:
        """`timeout`: time limit of the stream in seconds; None: no limit."""
        super().__init__()
        self._timeout = timeout
        self._chunks = chunks
        self._metrics = metrics
        self._style = style

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await until_disconnect(receive, self._send_all(send, direct_send(scope, send)))
        except ClientDisconnected:
            self._metrics.client_disconnected()

    async def _send_all(self, send: Send, direct: Send) -> None:
        """`direct` sends the body, which no middleware changes."""
        started = False
        style = self._style
        encode = style.encode
        try:
            async with answer_within(self._timeout), aclosing(self._chunks) as chunks:
                async for chunk in chunks:
                    if not started:
                        started = True
                        await send(
                            {"type": "http.response.start", "status": 200, "headers": HEADERS}
                        )
                        send = direct
                    await send(
                        {"type": "http.response.body", "body": encode(chunk), "more_body": True}
                    )
        except ApiError as error:
            if not started:
                raise
            await _write(send, style.encode(style.error(error)))
        except Exception:
            if not started:
                raise
            logger.exception("A stream failed")
            await _write(send, style.encode(style.error(internal_error())))
        if not started:
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": style.end, "more_body": False})


async def _write(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})
