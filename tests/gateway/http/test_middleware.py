"""Middleware, by real ASGI calls: keys, the limit on bodies, request ids and the last resort."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from formgate.gateway.errors import ApiError
from formgate.gateway.http.middleware import ApiKeys, BodyLimit, RequestContext

LIMIT = 1000


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] == "/bug":
        raise RuntimeError("a secret of ours")
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


def call(app: Any, method: str, path: str, **options: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


@pytest.mark.parametrize(
    "headers", [{"Authorization": "Bearer k2"}, {"authorization": "bearer k1"}, {"x-api-key": "k1"}]
)
def test_a_right_key_opens(headers: dict[str, str]) -> None:
    app = ApiKeys(echo, keys=("k1", "k2"))
    assert call(app, "GET", "/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer k"}, {"Authorization": "k1"}, {"x-api-key": "ключ"}]
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize", "/detokenize"])
def test_a_wrong_key_is_a_401(path: str, headers: dict[str, str]) -> None:
    encoded = {name: value.encode() for name, value in headers.items()}
    response = call(ApiKeys(echo, keys=("k1",)), "POST", path, headers=encoded)
    assert response.status_code == 401
    assert error_of(response)["code"] == "invalid_api_key"


@pytest.mark.parametrize("path", ["/health", "/ping", "/metrics", "/version", "/docs"])
def test_probes_need_no_key(path: str) -> None:
    assert call(ApiKeys(echo, keys=("k1",)), "GET", path).status_code == 200


def test_a_body_of_the_limit_passes_and_one_more_byte_is_a_413() -> None:
    app = RequestContext(BodyLimit(echo, max_bytes=LIMIT), log_requests=False)
    assert call(app, "POST", "/", content=b"x" * LIMIT).text == str(LIMIT)
    response = call(app, "POST", "/", content=b"x" * (LIMIT + 1))
    assert response.status_code == 413
    assert error_of(response)["code"] == "request_too_large"


def test_a_body_without_length_is_counted_and_never_held() -> None:
    """The application gets no more than the limit, whatever the client goes on to send."""
    received = 0

    async def count(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal received
        while True:
            message = await receive()
            received += len(message["body"])
            if not message["more_body"]:
                break

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 100

    app = BodyLimit(count, max_bytes=LIMIT)
    with pytest.raises(Exception, match="larger than the limit"):
        call(app, "POST", "/", content=endless())
    assert received <= LIMIT


def test_bodies_that_are_under_way_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("formgate.gateway.http.middleware.MAX_BODIES", 2)
    app = BodyLimit(echo, max_bytes=LIMIT)

    async def body(pause: asyncio.Event) -> AsyncIterator[Message]:
        yield {"type": "http.request", "body": b"x" * 900, "more_body": True}
        await pause.wait()
        yield {"type": "http.request", "body": b"x", "more_body": False}

    async def post(pause: asyncio.Event) -> None:
        scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
        await app(scope, body(pause).__anext__, send)

    async def send(message: Message) -> None:
        pass

    async def test() -> None:
        pause = asyncio.Event()
        two = [asyncio.create_task(post(pause)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as refusal:
            await post(pause)
        assert refusal.value.status == 503
        pause.set()
        await asyncio.gather(*two)
        for _ in range(3):  # nothing is held any more
            await post(pause)

    asyncio.run(test())


def test_a_request_id_is_kept_if_sound_and_made_otherwise() -> None:
    app = RequestContext(echo, log_requests=False)
    assert call(app, "GET", "/", headers={"X-Request-Id": "abc"}).headers["x-request-id"] == "abc"
    made = call(app, "GET", "/", headers={"X-Request-Id": "x" * 500}).headers["x-request-id"]
    assert len(made) == 32


def test_an_exception_is_a_500_that_tells_nothing_and_logs_all(
    caplog: pytest.LogCaptureFixture,
) -> None:
    response = call(RequestContext(echo, log_requests=False), "GET", "/bug")
    assert response.status_code == 500
    assert error_of(response)["type"] == "server_error"
    assert "secret" not in json.dumps(response.json())
    assert "a secret of ours" in caplog.text


def test_requests_are_logged_but_not_probes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    app = RequestContext(echo, log_requests=True)
    call(app, "POST", "/v1/x", content=b"abc", headers={"X-Request-Id": "id1"})
    call(app, "GET", "/health")
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("formgate")]
    assert len(ours) == 1
    assert ours[0].startswith("POST /v1/x 200 in ")
    assert ours[0].endswith("id1")
