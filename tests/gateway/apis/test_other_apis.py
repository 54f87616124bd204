"""The Responses API and Anthropic's as HTTP: named events, errors in each API's own shape, keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
from fastapi import FastAPI

from formgate.gateway.errors import ApiError, engine_died
from formgate.gateway.http.sse import Chunk

RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
Run = Callable[..., None]


class EventService:
    """Says two events of one step and then, if there is one, its error."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    async def stream(self, _: Any) -> Any:
        chunk: Chunk = [{"type": "a", "x": 1}, {"type": "b.c", "x": "é"}]
        yield chunk
        if self._error is not None:
            raise self._error

    async def complete(self, _: Any) -> dict[str, Any]:
        return {"whole": True}


def replaced(app: FastAPI, **services: Any) -> None:
    for name, service in services.items():
        object.__setattr__(app.state.gateway, name, service)


def anthropic_error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"type", "error", "request_id"}
    assert body["type"] == "error"
    assert body["request_id"] == response.headers["x-request-id"] == response.headers["request-id"]
    assert set(body["error"]) == {"type", "message", "details"}
    return body["error"]


def test_events_have_names_and_end_with_the_last(with_gateway: Run) -> None:
    wanted = 'event: a\ndata: {"type":"a","x":1}\n\nevent: b.c\ndata: {"type":"b.c","x":"é"}\n\n'

    async def test(client: httpx.AsyncClient, app: FastAPI) -> None:
        replaced(app, responses=EventService(), messages=EventService())
        for path, body in ((RESPONSES, {"input": "hello"}), (MESSAGES, HELLO)):
            streamed = await client.post(path, json=body | {"stream": True})
            assert streamed.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert streamed.text == wanted
            assert (await client.post(path, json=body)).json() == {"whole": True}

    with_gateway(test)


def test_a_late_error_is_an_event_of_its_api(with_gateway: Run) -> None:
    async def last_event(client: httpx.AsyncClient, path: str, body: Any) -> tuple[str, Any]:
        streamed = await client.post(path, json=body | {"stream": True})
        name, data = streamed.text.removesuffix("\n\n").split("\n\n")[-1].split("\n")
        return name, json.loads(data.removeprefix("data: "))

    async def test(client: httpx.AsyncClient, app: FastAPI) -> None:
        replaced(app, messages=EventService(engine_died()), responses=EventService(ValueError()))
        name, data = await last_event(client, MESSAGES, HELLO)
        assert (name, data["type"]) == ("event: error", "error")
        assert data["error"]["type"] == "overloaded_error"
        assert data["error"]["details"] == {"error_code": "engine_died"}
        name, data = await last_event(client, RESPONSES, {"input": "hello"})
        assert (name, data["type"], data["code"]) == ("event: error", "error", "internal_error")
        assert isinstance(data["sequence_number"], int)

    with_gateway(test)


def test_responses_errors_are_openais(with_gateway: Run) -> None:
    async def test(client: httpx.AsyncClient, _: FastAPI) -> None:
        for body, param in (
            ({}, "input"),
            ({"input": 5}, "input"),
            ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role"),
            ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
        ):
            response = await client.post(RESPONSES, json=body)
            assert response.status_code == 400
            assert response.json()["error"]["param"] == param
        missing = await client.post(RESPONSES, json={"input": "x", "model": "gpt-9"})
        assert missing.json()["error"]["code"] == "model_not_found"

    with_gateway(test)


def test_anthropics_errors_have_its_shape(with_gateway: Run) -> None:
    async def test(client: httpx.AsyncClient, app: FastAPI) -> None:
        missing = anthropic_error_of(await client.post(MESSAGES, json={"messages": []}), 400)
        assert missing["type"] == "invalid_request_error"
        assert "max_tokens" in missing["message"]
        unknown = await client.post(MESSAGES, json=HELLO | {"model": "claude"})
        assert anthropic_error_of(unknown, 404)["type"] == "not_found_error"
        nowhere = await client.get(MESSAGES + "/batches")
        assert anthropic_error_of(nowhere, 404)["type"] == "not_found_error"
        assert anthropic_error_of(await client.get(MESSAGES), 405)
        large = await client.post(MESSAGES, content=b"x" * 10_000_000)
        assert anthropic_error_of(large, 413)["type"] == "request_too_large"
        broken = await client.post(MESSAGES, json=HELLO | {"max_tokens": 500})
        assert anthropic_error_of(broken, 500)["type"] == "api_error"
        refused = ApiError(400, "It is refused.", "tools[0].input_schema#/type", "x")
        replaced(app, messages=RefusingService(refused))
        shown = anthropic_error_of(await client.post(MESSAGES, json=HELLO), 400)
        assert shown["message"] == "tools[0].input_schema#/type: It is refused."
        assert shown["details"] == {"error_code": "x"}

    with_gateway(test)


class RefusingService:
    def __init__(self, error: ApiError) -> None:
        self._error = error

    async def complete(self, _: Any) -> dict[str, Any]:
        raise self._error


def test_tokens_are_counted(with_gateway: Run) -> None:
    async def test(client: httpx.AsyncClient, _: FastAPI) -> None:
        body = {"messages": HELLO["messages"]}
        counted = await client.post(MESSAGES + "/count_tokens", json=body)
        assert counted.json() == {"input_tokens": 1}

    with_gateway(test)


def test_either_header_carries_the_key(with_gateway: Run) -> None:
    async def test(client: httpx.AsyncClient, _: FastAPI) -> None:
        refused = await client.post(MESSAGES, json=HELLO)
        assert anthropic_error_of(refused, 401)["type"] == "authentication_error"
        for headers in ({"x-api-key": "k"}, {"Authorization": "Bearer k"}):
            allowed = await client.post(MESSAGES, json=HELLO, headers=headers)
            assert allowed.status_code == 200
        wrong = await client.post(MESSAGES, json=HELLO, headers={"x-api-key": "no"})
        anthropic_error_of(wrong, 401)

    with_gateway(test, api_key=("k",))


def test_the_schema_shows_both(with_gateway: Run) -> None:
    async def test(client: httpx.AsyncClient, _: FastAPI) -> None:
        api = (await client.get("/openapi.json")).json()
        assert {RESPONSES, MESSAGES, MESSAGES + "/count_tokens"} <= set(api["paths"])
        schemas = api["components"]["schemas"]
        assert "input" in schemas["ResponsesRequest"]["properties"]
        assert "system" in schemas["MessagesRequest"]["properties"]

    with_gateway(test)
