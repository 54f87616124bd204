"""HTTP/1.1 on one connection: uvicorn's protocol with limits on bytes, times and connections, as a
server on the open internet needs them. It knows nothing of a request's meaning.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import httptools
from starlette.types import Scope
from uvicorn import Config
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from formgate.gateway.errors import (
    ApiError,
    headers_too_large,
    malformed_http,
    request_timeout,
    too_many_connections,
    uri_too_long,
)
from formgate.gateway.http.middleware import error_response, set_refusal

logger = logging.getLogger(__name__)

MAX_REQUEST_LINE = 16 * 1024  # bytes
MAX_HEADER_BYTES = 64 * 1024  # of a request line and its headers
MAX_HEADERS = 256
MAX_PIPELINED = 16  # requests that wait behind the one being answered
MIN_BODY_RATE = 4096  # bytes per second of a body that takes longer than its timeout
BODY_CHECK_INTERVAL = 5.0  # seconds
MIN_SENT = 16 * 1024  # bytes that a client must read within its timeout
LINGER_TIMEOUT = 2.0  # seconds that a refused client may still send, so that it reads the error
UNREAD_BODY_TIMEOUT = 5.0  # seconds that a body may continue after the answer
REFUSED_CONNECTIONS = 64  # beyond the limit that get a 503; further ones are cut


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """Times are in seconds."""

    max_connections: int
    header_timeout: float
    body_timeout: float
    send_timeout: float


class _Refused(Exception):
    """Raised in a parser callback to stop the parser."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


class _AnswerTransport(asyncio.Transport):
    """The transport given to an answer. Its `close` lets the protocol decide when to close."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        super().__init__()
        self.write = transport.write  # type: ignore[method-assign]
        self.is_closing = transport.is_closing  # type: ignore[method-assign]
        self.close = close  # type: ignore[method-assign]


class BoundedHttpProtocol(HttpToolsProtocol):
    """A refused connection gets one error in the API's shape and is closed.

    `_stage` changes when a request's head begins, when its body begins, and when it ends. A timer
    belongs to one stage; a request that arrives in one read needs none.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        *,
        limits: ConnectionLimits,
        count: Callable[[int], None],
    ) -> None:
        """`count` is called with the status of each refusal that bypasses the application."""
        super().__init__(config, server_state, app_state={})
        self._limits = limits
        self._count = count
        self._answering: RequestResponseCycle | None = None  # the latest one
        self._phase: Literal["idle", "head", "body"] = "idle"
        self._stage = 0
        self._timed_stage = -1
        self._read_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._num_unsent = 0  # bytes, when the send timer was started
        self._head_bytes = 0
        self._undelivered = 0  # bytes read since the parser's last callback
        self._got_further = False
        self._body_began = 0.0
        self._body_bytes = 0
        self._is_deaf = False  # drop all further input
        self._refusal: ApiError | None = None  # sent after the running answers

    # The connection.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._answer_transport = _AnswerTransport(transport, self._close)
        over = len(self.connections) - self._limits.max_connections
        if over > REFUSED_CONNECTIONS:
            transport.abort()
        elif over > 0:
            self._refuse(too_many_connections())
        else:
            self._set_timer(self._limits.header_timeout, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_send_timer()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        stage = self._stage
        self._got_further = False
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause.error if isinstance(cause, _Refused) else malformed_http(str(error)))
            return
        if self._stage != stage:
            self._unset_keepalive_if_required()
        self._undelivered = 0 if self._got_further else self._undelivered + len(data)
        if self._undelivered > MAX_HEADER_BYTES:
            self._refuse(headers_too_large(MAX_HEADER_BYTES))
            return
        self._time_stage()

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                # The parser takes what follows for another protocol, a body too. The head is
                # parsed again without the headers that ask for one.
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                value = b", ".join(token for token in tokens if token.lower() != b"upgrade")
            if name != b"upgrade":
                lines.append(b"%b: %b\r\n" % (name, value))
        return b"".join(lines) + b"\r\n"

    # Callbacks of the parser.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._enter("head")
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._head_bytes += len(url)
        if len(self.url) > MAX_REQUEST_LINE:
            raise _Refused(uri_too_long(MAX_REQUEST_LINE))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + len(b": \r\n")
        if self._head_bytes > MAX_HEADER_BYTES:
            raise _Refused(headers_too_large(MAX_HEADER_BYTES))
        if self._phase == "body":
            return  # a trailer: the application has its headers already
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            raise _Refused(ApiError(431, f"A request may have {MAX_HEADERS} headers."))

    def on_headers_complete(self) -> None:
        if self.parser.get_method() == b"CONNECT":
            raise _Refused(ApiError(405, "This server is not a proxy.", None, "method_not_allowed"))
        if self.parser.should_upgrade():
            return  # see `_feed`
        if (error := self._framing_error()) is not None:
            raise _Refused(error)
        super().on_headers_complete()
        self._enter("body")
        self._body_began = self.loop.time()
        self._body_bytes = 0
        self.cycle.transport = self._answer_transport
        if len(self.pipeline) > MAX_PIPELINED:
            raise _Refused(malformed_http("too many requests before the first is answered"))

    def on_body(self, body: bytes) -> None:
        self._got_further = True
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._phase == "body":
            self._enter("idle")
            super().on_message_complete()

    def _enter(self, phase: Literal["idle", "head", "body"]) -> None:
        self._phase = phase
        self._stage += 1
        self._got_further = phase != "head"

    def _framing_error(self) -> ApiError | None:
        """An error if the parser accepts a request that a proxy may frame differently."""
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            return ApiError(505, "Only HTTP/1.1 is supported.", None, "malformed_http")
        if sum(name == b"host" for name, _ in self.headers) > 1:
            return malformed_http("more than one Host")
        codings = [value for name, value in self.headers if name == b"transfer-encoding"]
        if codings and version == "1.0":
            return malformed_http("Transfer-Encoding in HTTP/1.0")
        if codings and [coding.strip().lower() for coding in codings] != [b"chunked"]:
            return ApiError(501, "The only transfer coding is chunked.", None, "malformed_http")
        return None

    # Answers.

    def on_response_complete(self) -> None:
        if self._is_deaf and self._refusal is None:
            return  # it is being closed
        super().on_response_complete()
        if self._refusal is not None and not self._is_answering():
            self._send_refusal(self._refusal)
        elif self._phase == "body" and self.cycle.response_complete:
            self._set_timer(UNREAD_BODY_TIMEOUT, self.transport.abort)
        else:
            self._time_stage()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._start_send_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_send_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_send_timer()

    def _start_send_timer(self) -> None:
        if self._send_timer is None:
            self._num_unsent = self.transport.get_write_buffer_size()
            self._send_timer = self.loop.call_later(self._limits.send_timeout, self._check_sent)

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _check_sent(self) -> None:
        """Abort the connection of a client that has read less than `MIN_SENT` bytes in time."""
        self._send_timer = None
        if self._num_unsent - self.transport.get_write_buffer_size() >= MIN_SENT:
            self._start_send_timer()
        else:
            logger.info("A client that does not read was disconnected")
            self.transport.abort()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _is_answering(self) -> bool:
        cycle = self._answering
        return bool(self.pipeline) or (cycle is not None and not cycle.response_complete)

    # Times.

    def _time_stage(self) -> None:
        if self._timed_stage == self._stage or self._is_deaf:
            return
        self._stop_timer()
        if self._phase == "head" and not self._is_answering():
            self._set_timer(self._limits.header_timeout, self._head_is_late)
        elif self._phase == "body" and not self.pipeline:
            self._set_timer(self._limits.body_timeout, self._body_may_be_late)

    def _set_timer(self, seconds: float, action: Callable[[], None]) -> None:
        self._stop_timer()
        self._timed_stage = self._stage
        self._read_timer = self.loop.call_later(seconds, action)

    def _stop_timer(self) -> None:
        self._timed_stage = -1
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _head_is_late(self) -> None:
        if self._phase == "idle":
            self.transport.abort()  # it sent nothing: perhaps a spare connection of a pool
        else:
            self._refuse(request_timeout("headers"))

    def _body_may_be_late(self) -> None:
        seconds = self.loop.time() - self._body_began
        if self._body_bytes >= seconds * MIN_BODY_RATE:
            self._set_timer(
                min(BODY_CHECK_INTERVAL, self._limits.body_timeout), self._body_may_be_late
            )
        else:
            self._refuse(request_timeout("body"))

    # Refusals.

    def _refuse(self, error: ApiError) -> None:
        """Stop reading, send `error` after the pending answers, and close."""
        self._is_deaf = True
        self._stop_timer()
        if self._phase != "body":
            self._count(error.status)
        else:  # the application already has the request at fault
            cycle = self.cycle
            if self.pipeline:
                self._count(error.status)
                self.pipeline.popleft()  # this one: it has not begun
                cycle.response_complete = True
            elif cycle.response_started:
                cycle.keep_alive = False
                if cycle.response_complete:
                    self._close()
                return
            else:
                # The application counts and logs it.
                set_refusal(cast(Scope, cycle.scope), error.status)
                cycle.disconnected = True
                cycle.response_complete = True
                cycle.message_event.set()
        if self._is_answering():
            self._refusal = error
        else:
            self._send_refusal(error)

    def _send_refusal(self, error: ApiError) -> None:
        target = getattr(self, "url", b"").partition(b"?")[0].decode("latin-1")
        response = error_response(error, {"path": target})
        headers = [
            *self.server_state.default_headers,
            *response.raw_headers,
            (b"connection", b"close"),
        ]
        self.transport.write(
            STATUS_LINE[error.status]
            + b"".join(b"%b: %b\r\n" % header for header in headers)
            + b"\r\n"
            + bytes(response.body)
        )
        logger.info("%s %s, connection refused: %s", target or "-", error.status, error.message)
        self._linger()

    def _close(self) -> None:
        if self._phase == "idle":
            self._is_deaf = True
            self.transport.close()
            self._start_send_timer()
        else:
            self._linger()

    def _linger(self) -> None:
        """Close after the client had time to read the answer. If data arrives after a close, the
        kernel resets the connection and drops the answer."""
        self._is_deaf = True
        self._refusal = None
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._set_timer(LINGER_TIMEOUT, self.transport.abort)
        else:
            self.transport.close()
            self._start_send_timer()
