"""The application over a real engine client: endpoints, errors, streams, clients that leave."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.metadata
import json
import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from formgate.gateway.model.text_bound import TextBound
from formgate.gateway.processes import engine_supervisor
from formgate.gateway.protocol.tokenize import TokenizeRequest

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "hello"}]}
Run = Callable[..., None]


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert len(body["error"]["message"]) <= 500
    return body["error"]


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def test_generation_in_one_piece_and_streamed(with_gateway: Run) -> None:
    async def test(client: httpx.AsyncClient, _: FastAPI) -> None:
        whole = await client.post(CHAT, json=HELLO | {"max_tokens": 4})
        assert whole.json() == {"tokens": [1, 2, 3, 4]}
        streamed = await client.post(CHAT, json=HELLO | {"max_tokens": 2, "stream": True})
        assert streamed.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert events(streamed.text) == [{"tokens": [1]}, {"tokens": [2]}, "[DONE]"]
        completion = await client.post("/v1/completions", json={"prompt": "x"})
        assert completion.json() == {"tokens": [1, 2, 3]}

    with_gateway(test)


def test_a_body_needs_no_content_type(with_gateway: Run) -> None:
    async def test(client: httpx.AsyncClient, _: FastAPI) -> None:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        response = await client.post(CHAT, content=json.dumps(HELLO), headers=headers)
        assert response.status_code == 200

    with_gateway(test)


def test_bad_input_is_openais_error_and_the_next_request_is_served(with_gateway: Run) -> None:
    bodies: list[tuple[bytes, str | None]] = [
        (b"{", None),
        (b"", None),
        (b"[]", None),
        (b'{"messages": "\xff\xfe"}', "messages"),
        (b"[" * 100_000, None),
        (b"{}", "messages"),
        (b'{"messages": [{"role": "user", "content": 5}]}', "messages[0].content"),
        (b'{"messages": [{"role": "wizard", "content": "x"}]}', "messages[0].role"),
        (json.dumps(HELLO | {"temperature": "hot"}).encode(), "temperature"),
        (json.dumps(HELLO | {"temperature": float("nan")}).encode(), "temperature"),
        (json.dumps(HELLO | {"temperature": float("inf")}).encode(), "temperature"),
        (json.dumps(HELLO | {"top_p": 7}).encode(), "top_p"),
        (json.dumps(HELLO | {"temperature": "x" * 10_000}).encode(), "temperature"),
    ]

    async def test(client: httpx.AsyncClient, _: FastAPI) -> None:
        for body, param in bodies:
            for stream in (b"", b'"stream": true, '):
                sent = body.replace(b"{", b"{" + stream, 1) if len(body) > 2 else body
                error = error_of(await client.post(CHAT, content=sent), 400)
                assert error["type"] == "invalid_request_error"
                assert error["param"] == param, (sent[:80], error)
                assert "xxxx" not in error["message"]
        assert (await client.post(CHAT, json=HELLO)).status_code == 200

    with_gateway(test)


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_of_a_service_is_an_http_error_before_the_first_byte(
    with_gateway: Run, stream: bool
) -> None:
    async def test(client: httpx.AsyncClient, _: FastAPI) -> None:
        refused = await client.post(CHAT, json=HELLO | {"max_tokens": 13, "stream": stream})
        error = error_of(refused, 400)
        assert (error["param"], error["code"]) == ("max_tokens", "superstition")
        broken = await client.post(CHAT, json=HELLO | {"max_tokens": 500, "stream": stream})
        assert "bug" not in error_of(broken, 500)["message"]

    with_gateway(test)


def test_unknown_model_path_and_method(with_gateway: Run) -> None:
    async def test(client: httpx.AsyncClient, _: FastAPI) -> None:
        error = error_of(await client.post(CHAT, json=HELLO | {"model": "gpt-9"}), 404)
        assert error["code"] == "model_not_found"
        assert error_of(await client.get("/v1/models/gpt-9"), 404)["code"] == "model_not_found"
        assert error_of(await client.get("/v1/nowhere"), 404)["code"] == "unknown_url"
        response = await client.get(CHAT)
        assert error_of(response, 405)["code"] == "method_not_allowed"
        assert response.headers["allow"] == "POST"

    with_gateway(test)


def test_a_10_mb_body_is_a_413(with_gateway: Run) -> None:
    async def test(client: httpx.AsyncClient, _: FastAPI) -> None:
        error_of(await client.post(CHAT, content=b"x" * 10_000_000), 413)
        assert (await client.post(CHAT, json=HELLO)).status_code == 200

    with_gateway(test)


def test_models_under_all_their_names(with_gateway: Run) -> None:
    async def test(client: httpx.AsyncClient, _: FastAPI) -> None:
        cards = (await client.get("/v1/models")).json()
        assert cards["object"] == "list"
        assert [card["id"] for card in cards["data"]] == ["org/a", "b"]
        assert all(card["max_model_len"] == 2048 for card in cards["data"])
        assert (await client.get("/v1/models/org/a")).json() == cards["data"][0]
        for name in ("org/a", "b"):
            assert (await client.post(CHAT, json=HELLO | {"model": name})).status_code == 200

    with_gateway(test, served_model_name=("org/a", "b"), model="somewhere")


def test_keys_guard_the_api_only(with_gateway: Run) -> None:
    async def test(client: httpx.AsyncClient, _: FastAPI) -> None:
        assert error_of(await client.get("/v1/models"), 401)["code"] == "invalid_api_key"
        client.headers["Authorization"] = "Bearer k"
        assert (await client.get("/v1/models")).status_code == 200
        del client.headers["Authorization"]
        for path in ("/health", "/ping", "/metrics", "/version", "/docs", "/openapi.json"):
            assert (await client.get(path)).status_code == 200
        # Swagger UI asks for the key, and sends it to these paths.
        api = (await client.get("/openapi.json")).json()
        [name] = api["components"]["securitySchemes"]
        assert api["paths"][CHAT]["post"]["security"] == [{name: []}]
        assert "security" not in api["paths"]["/health"]["get"]

    with_gateway(test, api_key=("k",))


def test_tokens_there_and_back(with_gateway: Run) -> None:
    async def test(client: httpx.AsyncClient, _: FastAPI) -> None:
        text = "Hello, 世界!"
        asked = {"prompt": text, "return_token_strs": True}
        tokens = (await client.post("/tokenize", json=asked)).json()
        assert tokens["count"] == len(tokens["tokens"]) == len(text.encode())
        assert tokens["token_strs"][0] == "H"
        assert tokens["max_model_len"] == 2048
        back = await client.post("/detokenize", json={"tokens": tokens["tokens"]})
        assert back.json() == {"prompt": text}
        for wrong in (-1, 10**9, "a"):
            response = await client.post("/detokenize", json={"tokens": [1, wrong]})
            assert error_of(response, 400)["param"] == "tokens[1]"

    with_gateway(test)


def test_server_pages(with_gateway: Run) -> None:
    async def test(client: httpx.AsyncClient, _: FastAPI) -> None:
        version = {"version": importlib.metadata.version("formgate")}
        assert (await client.get("/version")).json() == version
        assert "/docs" in (await client.get("/")).text
        page = (await client.get("/docs")).text
        assert "SwaggerUIBundle" in page
        links = re.findall(r'(?:src|href)="([^"]*)"', page)
        assert links == ["docs/swagger-ui.css", "data:,", "docs/swagger-ui-bundle.js"]
        assert "http://" not in page
        assert "https://" not in page
        for link, kind in ((links[0], "text/css"), (links[2], "text/javascript")):
            asset = await client.get(f"/{link}")
            assert asset.headers["content-type"].startswith(kind)
            assert len(asset.content) > 100_000
        api = (await client.get("/openapi.json")).json()
        assert {CHAT, "/v1/completions", "/tokenize", "/metrics"} <= set(api["paths"])
        text = json.dumps(api)
        for reference in {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}:
            assert reference in api["components"]["schemas"]
        assert "messages" in api["components"]["schemas"]["ChatCompletionRequest"]["properties"]
        assert (await client.post("/ping")).status_code == 200
        assert (await client.get("/ready")).status_code == 200
        metrics = await client.get("/metrics")
        assert metrics.headers["content-type"].startswith("text/plain")
        assert "vllm:num_requests_running" in metrics.text

    with_gateway(test)


def test_browsers_of_allowed_origins_may_call(with_gateway: Run) -> None:
    async def test(client: httpx.AsyncClient, _: FastAPI) -> None:
        asks = {"Access-Control-Request-Method": "POST", "Origin": "https://a.b"}
        allowed = await client.options(CHAT, headers=asks)
        assert allowed.headers["access-control-allow-origin"] == "https://a.b"
        refused = await client.options(CHAT, headers=asks | {"Origin": "https://evil"})
        assert "access-control-allow-origin" not in refused.headers

    with_gateway(test, allowed_origins=("https://a.b",), api_key=("k",))


async def call_and_leave(app: FastAPI, *, stream: bool) -> None:
    """An endless request whose client goes away while it is answered."""
    service = app.state.gateway.chat
    body = json.dumps(HELLO | {"max_tokens": 10**6, "stream": stream}).encode()
    incoming = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if incoming:
            return incoming.pop()
        while service.begun == 0:
            await asyncio.sleep(0.001)
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        pass

    scope = {
        **{"type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode()},
        **{"query_string": b"", "headers": [], "http_version": "1.1", "scheme": "http"},
        **{"server": ("test", 80), "client": ("test", 1), "root_path": ""},
    }
    await app(scope, receive, send)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_aborts_its_request(with_gateway: Run, stream: bool) -> None:
    async def test(client: httpx.AsyncClient, app: FastAPI) -> None:
        await call_and_leave(app, stream=stream)
        assert app.state.gateway.engine.num_in_flight == 0
        report = await client.post(CHAT, json=HELLO | {"seed": 0, "max_tokens": 1})
        assert report.status_code == 200
        metrics = (await client.get("/metrics")).text
        name = "formgate:requests_aborted_by_disconnect_total"
        assert f'{name}{{engine="0",model_name="formgate-embedded"}} 1.0' in metrics
        aborted = 'engine="0",finished_reason="abort",model_name="formgate-embedded"'
        assert f"vllm:request_success_total{{{aborted}}} 1.0" in metrics

    with_gateway(test)


def test_a_full_queue_is_a_429_with_retry_after(with_gateway: Run) -> None:
    async def test(client: httpx.AsyncClient, app: FastAPI) -> None:
        engine = app.state.gateway.engine
        body = HELLO | {"max_tokens": 10**6}
        running = [asyncio.create_task(client.post(CHAT, json=body)) for _ in range(4)]
        while engine.num_in_flight < 4:
            await asyncio.sleep(0.001)
        for stream in (False, True):
            refused = await client.post(CHAT, json=HELLO | {"stream": stream})
            assert error_of(refused, 429)["code"] == "rate_limit_exceeded"
            assert int(refused.headers["retry-after"]) > 0
        error_of(await client.get("/ready"), 429)
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        assert (await client.post(CHAT, json=HELLO)).status_code == 200
        assert (await client.get("/ready")).status_code == 200

    with_gateway(test, max_queue_size=0)


def test_the_server_outlives_its_engine(with_gateway: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(client: httpx.AsyncClient, app: FastAPI) -> None:
        service = app.state.gateway.chat
        bind_sockets = engine_supervisor.bind_sockets

        def unable(*_: object) -> None:
            raise OSError("not yet")

        monkeypatch.setattr(engine_supervisor, "bind_sockets", unable)
        monkeypatch.setattr(engine_supervisor, "FIRST_RESTART_DELAY", 0.01)
        asked = HELLO | {"max_tokens": 10**6}
        whole = asyncio.create_task(client.post(CHAT, json=asked))
        streamed = asyncio.create_task(client.post(CHAT, json=asked | {"stream": True}))
        while service.begun < 2:
            await asyncio.sleep(0.001)
        task = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
        for child in task.split():
            if b"scripted_engine" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(int(child), signal.SIGKILL)
        assert error_of(await whole, 503)["code"] == "engine_died"
        last = events((await streamed).text)[-2:]
        assert last[0]["error"]["code"] == "engine_died"
        assert last[1] == "[DONE]"
        assert (await client.get("/health")).status_code == 503
        assert error_of(await client.post(CHAT, json=HELLO), 503)["code"] == "engine_not_ready"
        assert (await client.get("/version")).status_code == 200
        monkeypatch.setattr(engine_supervisor, "bind_sockets", bind_sockets)
        while (await client.get("/health")).status_code != 200:
            await asyncio.sleep(0.02)
        assert (await client.post(CHAT, json=HELLO)).json() == {"tokens": [1, 2, 3]}

    with_gateway(test)


def test_a_text_is_tokenized_where_it_holds_up_no_stream(with_gateway: Run) -> None:
    async def test(client: httpx.AsyncClient, app: FastAPI) -> None:
        threads: list[threading.Thread] = []

        def tokenize(request: TokenizeRequest, bound: TextBound) -> list[int]:
            threads.append(threading.current_thread())
            return [1]

        app.state.gateway = dataclasses.replace(app.state.gateway, tokenize=tokenize)
        answer = await client.post("/tokenize", json={"prompt": "long"})
        assert answer.json()["tokens"] == [1]
        assert threads[0] is not threading.current_thread()

    with_gateway(test)


def test_each_response_is_counted_by_route_method_and_status(with_gateway: Run) -> None:
    async def test(client: httpx.AsyncClient, app: FastAPI) -> None:
        engine = app.state.gateway.engine
        running = asyncio.create_task(client.post(CHAT, json=HELLO | {"max_tokens": 60}))
        while engine.num_in_flight < 1:
            await asyncio.sleep(0.001)
        answers = [
            *[await client.post(CHAT, json=HELLO | {"max_tokens": 1}) for _ in range(2)],
            await client.post(CHAT, json=HELLO | {"max_tokens": 1, "stream": True}),
            await client.post(CHAT, json=HELLO | {"max_tokens": 13}),
            await client.post(CHAT, content=b"{"),
            await client.post(CHAT, content=b"[" * 3000),
            await client.post(CHAT, json=HELLO, headers={"Authorization": "Bearer wrong"}),
            await client.post(CHAT, json=HELLO | {"max_tokens": 500}),
            await client.get(CHAT),
            await client.get("/v1/models/none"),
            await client.get("/never"),
            await client.get("/health"),
            await running,
        ]
        engine._max_in_flight = 0
        answers.append(await client.post(CHAT, json=HELLO))
        app.state.gateway.shutdown.draining.set()
        answers.append(await client.post(CHAT, json=HELLO))
        statuses = [answer.status_code for answer in answers]
        assert statuses == [
            200,
            200,
            200,
            400,
            400,
            413,
            401,
            500,
            405,
            404,
            404,
            200,
            200,
            429,
            503,
        ]
        counted = {}
        for line in (await client.get("/metrics")).text.splitlines():
            if line.startswith("http_requests_total"):
                labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
                key = labels["handler"], labels["method"], labels["status"]
                counted[key] = float(line.rpartition(" ")[2])
        assert counted == {
            (CHAT, "POST", "200"): 4,
            (CHAT, "POST", "400"): 2,
            (CHAT, "POST", "401"): 1,
            (CHAT, "POST", "413"): 1,
            (CHAT, "POST", "429"): 1,
            (CHAT, "POST", "500"): 1,
            (CHAT, "POST", "503"): 1,
            (CHAT, "GET", "405"): 1,
            ("/v1/models/{name:path}", "GET", "404"): 1,
            ("none", "GET", "404"): 1,
            ("/health", "GET", "200"): 1,
        }

    def authorised(client: httpx.AsyncClient, app: FastAPI) -> Any:
        client.headers["Authorization"] = "Bearer right"
        return test(client, app)

    with_gateway(authorised, api_key=("right",), max_body_bytes=2000)
