"""HTTP on a real connection, byte by byte: what is refused, in which shape, and what is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from formgate.gateway.errors import ApiError
from formgate.gateway.http.http_protocol import MAX_PIPELINED, REFUSED_CONNECTIONS
from formgate.gateway.http.middleware import BodyLimit, RequestContext, error_response
from formgate.gateway.http.response_counter import ResponseCounter
from formgate.gateway.metrics import Metrics
from formgate.gateway.server_config import ServerConfig
from formgate.gateway.serving.server import http_server

MAX_BODY = 100_000
POST = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
NEVER = 100.0  # seconds: a timeout that no test reaches


class App:
    """Tells what it was sent; `/stream` sends for ever, and `/early` answers before the body."""

    def __init__(self) -> None:
        self.aborted = threading.Event()
        self.calls: list[str] = []
        self.go_on = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls.append(scope["path"])
        try:
            match scope["path"]:
                case "/stream":
                    await self._stream(receive, send)
                case "/slow":
                    await asyncio.to_thread(self.go_on.wait, 30)
                    await Response(b"slow")(scope, receive, send)
                case "/early":
                    await Response(b"early")(scope, receive, send)
                case _:
                    request = Request(scope, receive)
                    body = await request.body()
                    told = {"body": body.decode("latin-1"), "headers": dict(request.headers)}
                    await JSONResponse(told)(scope, receive, send)
        except ApiError as error:
            await error_response(error, scope)(scope, receive, send)
        except ClientDisconnect:
            self.aborted.set()
            raise

    async def _stream(self, receive: Receive, send: Send) -> None:
        async def leaves() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            self.aborted.set()

        leaving = asyncio.create_task(leaves())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not self.aborted.is_set():
            message: Message = {"type": "http.response.body", "body": b"x" * 1000}
            await send(message | {"more_body": True})
            await asyncio.sleep(0)
        await leaving


class Running:
    def __init__(self, app: App, address: tuple[str, int], metrics: Metrics) -> None:
        self.app = app
        self.address = address
        self._metrics = metrics
        self._sockets: list[socket.socket] = []

    def connect(self, **options: Any) -> socket.socket:
        sock = socket.socket()
        for name, value in options.items():
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        sock.settimeout(20)
        sock.connect(self.address)
        self._sockets.append(sock)
        return sock

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()

    def counted(self) -> dict[tuple[str, str], float]:
        """Responses by route and status."""
        found = {}
        for line in self._metrics.exposition().decode().splitlines():
            if line.startswith("http_requests_total{"):
                labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
                found[labels["handler"], labels["status"]] = float(line.rpartition(" ")[2])
        return found

    def exchange(self, data: bytes) -> list[tuple[int, dict[str, str], bytes]]:
        """Send, and read until the server closes the connection."""
        sock = self.connect()
        sock.sendall(data)
        with sock:
            return answers(read_to_end(sock))


def read_to_end(sock: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(65536):
            parts.append(part)
    return b"".join(parts)


def answers(data: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        line, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (one.split(": ", 1) for one in lines)}
        length = int(headers.get("content-length", 0))
        found.append((int(line.split()[1]), headers, data[:length]))
        data = data[length:]
    return found


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., Running]]:
    """Servers of this process, each in a thread."""
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> Running:
            app = App()
            limits = {"client_header_timeout": NEVER, "client_body_timeout": NEVER}
            config = ServerConfig(**limits | options)
            metrics = Metrics("m")
            counting = ResponseCounter(
                BodyLimit(app, max_bytes=MAX_BODY),
                routes=[Route("/echo", app)],
                count=metrics.http_response,
            )
            wrapped = RequestContext(counting, log_requests=True)
            server = http_server(config, wrapped, metrics)
            listener = socket.socket()
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            thread = threading.Thread(target=lambda: uvloop.run(server.serve(sockets=[listener])))
            running = Running(app, listener.getsockname(), metrics)
            thread.start()

            def tell() -> None:
                running.close()
                app.go_on.set()
                server.should_exit = True

            stack.callback(thread.join)
            told.append(tell)
            return running

        told: list[Callable[[], None]] = []

        yield start
        for tell in told:  # all before the first is waited for
            tell()


@pytest.fixture(scope="module")
def shared(serve: Callable[..., Running]) -> Running:
    return serve()


@pytest.fixture
def server(shared: Running) -> Iterator[Running]:
    shared.app.go_on.clear()
    shared.app.calls.clear()
    yield shared
    shared.close()


def assert_refused(answer: tuple[int, dict[str, str], bytes], status: int, code: str) -> None:
    assert answer[0] == status
    assert answer[1]["connection"] == "close"
    error = json.loads(answer[2])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code


LAST = b"GET /echo HTTP/1.1\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", 414, "uri_too_long"),
        (b"GET /" + b"a" * 20_000, 414, "uri_too_long"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000, 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 300 + b"\r\n", 431, None),
        (b"GET / HTTP/1.1\r\n" + (b"X: " + b"a" * 997 + b"\r\n") * 66, 431, "headers_too_large"),
        (b"\r\n" * 40_000, 431, "headers_too_large"),
        (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, ""),
        (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400, ""),
        (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400, ""),
        (POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400, ""),
        (POST + b"Content-Length: 5, 5\r\n\r\nhello", 400, ""),
        (POST + b"Content-Length: +5\r\n\r\nhello", 400, ""),
        (POST + b"Content-Length: 99999999999999999999999\r\n\r\n", 400, ""),
        (POST + b"Content-Length: \r\n\r\n", 400, ""),
        (POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400, ""),
        (POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400, ""),
        (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501, ""),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, ""),
        (
            POST + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            501,
            "",
        ),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, ""),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n", 400, ""),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", 400, ""),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhi\r\n", 400, ""),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n", 400, ""),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX0\r\n\r\n", 400, ""),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"a" * 400_000, 431, "headers_too_large"),
        (
            POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"a" * 400_000,
            431,
            "headers_too_large",
        ),
        (POST + b"Host: y\r\n\r\n", 400, ""),
        (b"GET / HTTP/1.1\nHost: x\n\n", 400, ""),
        (b"GET / HTTP/1.1\r\nX: a\x00b\r\n\r\n", 400, ""),
        (b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n", 400, ""),
        ("GET /é HTTP/1.1\r\n\r\n".encode(), 400, ""),
        (b"GET /\r\n\r\n", 505, ""),
        (b"GET / HTTP/2.0\r\n\r\n", 505, ""),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, ""),
        (b"GET http://[ HTTP/1.1\r\n\r\n", 400, ""),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", 405, "method_not_allowed"),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400, ""),
    ],
)
def test_what_is_no_sound_request_is_refused_and_closed(
    server: Running, request_bytes: bytes, status: int, code: str | None
) -> None:
    (answer,) = server.exchange(request_bytes)
    assert_refused(answer, status, "malformed_http" if code == "" else code)
    assert set(server.app.calls) <= {"/echo"}  # at most begun, never answered


def test_an_error_has_the_shape_of_the_api_that_was_called(server: Running) -> None:
    ((status, _, body),) = server.exchange(b"POST /v1/messages?x HTTP/1.1\r\nX : a\r\n\r\n")
    assert status == 400
    assert json.loads(body)["type"] == "error"
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


def test_just_below_the_limits_all_is_well(server: Running) -> None:
    long = b"GET /" + b"a" * 16_000 + b" HTTP/1.1\r\nX: " + b"a" * 47_000 + b"\r\n"
    ((status, _, _),) = server.exchange(long + b"Connection: close\r\n\r\n")
    assert status == 200


def test_a_request_line_byte_by_byte_counts_as_well(server: Running) -> None:
    sock = server.connect()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(ConnectionError):
        for _ in range(60):
            sock.sendall(b"GET /" + b"a" * 300 if _ == 0 else b"a" * 300)
    (answer,) = answers(read_to_end(sock))
    assert_refused(answer, 414, "uri_too_long")


@pytest.mark.parametrize(
    "headers",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        b"Upgrade: websocket\r\nConnection: upgrade\r\n",
        b"Upgrade: h2c\r\n",
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("pieces", [1, 3])
def test_an_upgrade_is_ignored_and_the_body_kept(
    server: Running, headers: bytes, chunked: bool, pieces: int
) -> None:
    if chunked:
        body = b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
    else:
        body = b"Content-Length: 5\r\n\r\nhello"
    data = POST + headers + body
    sock = server.connect()
    cut = len(data) // pieces
    for start in range(0, len(data), cut):
        sock.sendall(data[start : start + cut])
    sock.sendall(b"GET /echo HTTP/1.1\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n")
    first, second = answers(read_to_end(sock))
    assert (first[0], json.loads(first[2])["body"]) == (200, "hello")
    assert "upgrade" not in json.loads(second[2])["headers"] or b"Connection" not in headers
    assert second[0] == 200


def test_pipelined_requests_are_answered_in_order(server: Running) -> None:
    one = b"POST /echo HTTP/1.1\r\nContent-Length: 1\r\n\r\n%d"
    found = server.exchange(b"".join(one % i for i in range(5)) + LAST)
    assert [json.loads(body)["body"] for _, _, body in found] == ["0", "1", "2", "3", "4", ""]


def test_what_is_wrong_behind_a_sound_request_waits_for_its_answer(server: Running) -> None:
    sock = server.connect()
    sock.sendall(b"GET /slow HTTP/1.1\r\n\r\n" + POST + b"Content-Length: x\r\n\r\n")
    server.app.go_on.set()
    first, second = answers(read_to_end(sock))
    assert (first[0], first[2]) == (200, b"slow")
    assert_refused(second, 400, "malformed_http")


def test_no_more_than_a_few_pipelined_requests_are_held(server: Running) -> None:
    sock = server.connect()
    sock.sendall(b"GET /slow HTTP/1.1\r\n\r\n" + b"GET /echo HTTP/1.1\r\n\r\n" * 1000)
    server.app.go_on.set()
    *sound, last = answers(read_to_end(sock))
    assert [status for status, _, _ in sound] == [200] * (MAX_PIPELINED + 1)
    assert_refused(last, 400, "malformed_http")


def test_a_trailer_is_no_header(server: Running) -> None:
    body = b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Api-Key: k\r\n\r\n"
    answer = server.exchange(POST + body + LAST)[0]
    told = json.loads(answer[2])
    assert told["body"] == "hi"
    assert "x-api-key" not in told["headers"]


# Bodies.


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"])
def test_a_413_comes_before_the_body(server: Running, expect: bytes) -> None:
    (answer,) = server.exchange(POST + expect + b"Content-Length: 100000000\r\n\r\n")
    assert_refused(answer, 413, "request_too_large")


def test_a_413_is_read_by_a_client_that_goes_on_sending(server: Running) -> None:
    sock = server.connect()
    sock.sendall(POST + b"Content-Length: 3000000\r\n\r\n")
    sock.sendall(b"x" * 3_000_000)
    (answer,) = answers(read_to_end(sock))
    assert_refused(answer, 413, "request_too_large")


def test_a_413_in_the_middle_of_chunks(server: Running) -> None:
    sock = server.connect()
    sock.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
    sock.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n10000\r\n" + b"x" * 65536)
    (answer,) = answers(read_to_end(sock))
    assert_refused(answer, 413, "request_too_large")


def test_a_client_that_expects_100_gets_it(server: Running) -> None:
    sock = server.connect()
    sock.sendall(POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    sock.sendall(b"hi" + LAST)
    assert [status for status, _, _ in answers(read_to_end(sock))] == [200, 200]


def test_a_connection_goes_on_after_an_answer_that_came_before_the_body(server: Running) -> None:
    sock = server.connect()
    sock.sendall(b"POST /early HTTP/1.1\r\nContent-Length: 5\r\n\r\nhe")
    assert sock.recv(1000).endswith(b"early")
    sock.sendall(b"llo" + LAST)
    assert [status for status, _, _ in answers(read_to_end(sock))] == [200]


# Times.


def test_a_client_that_says_nothing_is_cut_off(serve: Callable[..., Running]) -> None:
    server = serve(client_header_timeout=0.2)
    assert read_to_end(server.connect()) == b""


@pytest.mark.parametrize("before", [b"", b"GET /echo HTTP/1.1\r\n\r\n"])
def test_headers_that_drip_are_a_408(serve: Callable[..., Running], before: bytes) -> None:
    server = serve(client_header_timeout=0.5)
    sock = server.connect()
    sock.sendall(before)
    drip = b"GET / HTTP/1.1\r\n" + b"X: aaaa\r\n" * 1000
    *_, answer = answers(drip_until_answered(sock, drip, after=len(before) and 1))
    assert_refused(answer, 408, "request_timeout")


def test_a_body_that_drips_is_a_408_and_its_request_is_dropped(
    serve: Callable[..., Running],
) -> None:
    server = serve(client_body_timeout=0.5)
    sock = server.connect()
    sock.sendall(POST + b"Content-Length: 90000\r\n\r\n")
    (answer,) = answers(drip_until_answered(sock, b"x" * 1000))
    assert_refused(answer, 408, "request_timeout")
    assert server.app.aborted.wait(10)
    assert server.counted() == {("/echo", "408"): 1}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"Content-Length: 5\r\n\r\nhe", "499"),  # it leaves
        (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "400"),
        (b"Transfer-Encoding: chunked\r\n\r\n5;" + b"a" * 400_000, "431"),
        (b"Content-Length: 100000000\r\n\r\n", "413"),
    ],
)
def test_a_body_that_never_ends_is_counted_as_it_is_answered(
    serve: Callable[..., Running], body: bytes, status: str
) -> None:
    server = serve()
    sock = server.connect()
    sock.sendall(POST + body)
    sock.shutdown(socket.SHUT_WR)
    assert [str(answer[0]) for answer in answers(read_to_end(sock))] == [status] * (status != "499")
    wait_until(lambda: server.counted())
    assert server.counted() == {("/echo", status): 1}


def test_a_fault_of_a_pipelined_body_is_counted_once(serve: Callable[..., Running]) -> None:
    server = serve()
    sock = server.connect()
    sock.sendall(b"GET /slow HTTP/1.1\r\n\r\n" + POST + b"Transfer-Encoding: chunked\r\n\r\nzz")
    server.app.go_on.set()
    first, second = answers(read_to_end(sock))
    assert first[0] == 200
    assert_refused(second, 400, "malformed_http")
    wait_until(lambda: len(server.counted()) == 2)
    assert server.counted() == {("none", "200"): 1, ("none", "400"): 1}


def wait_until(condition: Callable[[], object]) -> None:
    """A response is counted after it is sent."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_body_that_is_slow_but_steady_is_waited_for(serve: Callable[..., Running]) -> None:
    server = serve(client_body_timeout=0.05)
    sock = server.connect()
    sock.sendall(POST + b"Connection: close\r\nContent-Length: 90000\r\n\r\n")
    for _ in range(8):
        sock.sendall(b"x" * 10_000)
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):  # the client rests
            sock.recv(1)
    sock.settimeout(20)
    sock.sendall(b"x" * 10_000)
    ((status, _, body),) = answers(read_to_end(sock))
    assert (status, len(json.loads(body)["body"])) == (200, 90_000)


def test_a_body_that_stops_after_its_answer_ends_the_connection(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("formgate.gateway.http.http_protocol.UNREAD_BODY_TIMEOUT", 0.1)
    sock = server.connect()
    sock.sendall(b"POST /early HTTP/1.1\r\nContent-Length: 5\r\n\r\nhe")
    assert [status for status, _, _ in answers(read_to_end(sock))] == [200]


def drip_until_answered(sock: socket.socket, data: bytes, after: int = 0) -> bytes:
    """Send byte by byte until the server has had enough. `after`: answers that come first."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    read = b""
    while read.count(b"HTTP/1.1 200") < after:
        read += sock.recv(1000)
    sock.settimeout(0.01)
    for i in range(len(data)):
        with contextlib.suppress(ConnectionError):
            sock.sendall(data[i : i + 1])
        with contextlib.suppress(TimeoutError, ConnectionError):
            read += sock.recv(1000)
            break
    sock.settimeout(20)
    return read + read_to_end(sock)


def test_a_client_that_does_not_read_is_aborted(serve: Callable[..., Running]) -> None:
    server = serve(send_timeout=0.3)
    sock = server.connect(SO_RCVBUF=4096)
    sock.sendall(b"GET /stream HTTP/1.1\r\n\r\n")
    assert server.app.aborted.wait(20)
    read_to_end(sock)  # it has an end


def test_a_client_that_reads_slowly_is_waited_for(serve: Callable[..., Running]) -> None:
    server = serve(send_timeout=0.3)
    sock = server.connect(SO_RCVBUF=4096)
    sock.sendall(b"GET /stream HTTP/1.1\r\n\r\n")
    read = 0
    while read < 3_000_000:
        read += len(sock.recv(65536))
    assert not server.app.aborted.is_set()


# Connections.


def test_connections_beyond_the_limit_get_a_503(serve: Callable[..., Running]) -> None:
    server = serve(max_connections=3)
    open_ones = [server.connect() for _ in range(3)]
    for sock in open_ones:  # each is taken in
        sock.sendall(b"GET /early HTTP/1.1\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 200")
    for _ in range(5):
        with server.connect() as refused:
            (answer,) = answers(read_to_end(refused))
        assert_refused(answer, 503, "too_many_connections")
        assert answer[1]["retry-after"] == "1"
    open_ones.pop().close()
    status = 503
    while status == 503:  # until the server has seen it leave
        ((status, _, _),) = server.exchange(LAST)
    assert status == 200


def test_a_flood_of_connections_is_cut_without_an_answer(serve: Callable[..., Running]) -> None:
    server = serve(max_connections=1)
    sock = server.connect()
    sock.sendall(b"GET /early HTTP/1.1\r\n\r\n")
    sock.recv(1000)
    flood = [server.connect() for _ in range(REFUSED_CONNECTIONS + 20)]
    found = [answers(read_to_end(one)) for one in flood]
    assert all(one == [] or one[0][0] == 503 for one in found)
    sock.sendall(LAST)
    assert sock.recv(1000).startswith(b"HTTP/1.1 200")
