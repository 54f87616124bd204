"""A short run of `python -m tests.fuzz`: whatever is asked, the server answers properly, loses
nothing and holds nothing. The limits on time and memory are the full run's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.fuzz.bodies import Bodies, Case, encode
from tests.fuzz.judge import Answer, wrong
from tests.fuzz.run import Run, idle_metrics, shrunk
from tests.fuzz.watch import HealthWatch, children
from tests.serving.conftest import Server, start_server, stop_server

SEED = 7
DESCRIBED, CONSTRAINTS = 500, 50
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("fuzz") / "log"
    running = start_server(log, "--max-model-len", "1024", "--max-num-seqs", "8")
    yield running
    stop_server(running)


@pytest.mark.serve
def test_random_requests_are_answered_properly(server: Server) -> None:
    async def main() -> dict[str, list[Any]]:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            bodies = Bodies((await client.get("/openapi.json")).json(), SEED)
            run = Run(client, bodies, concurrency=8)
            with HealthWatch(server.url) as health:
                await run.all(0, DESCRIBED, CONSTRAINTS)
            assert await idle_metrics(client) == []
            assert health.wrong == []
            assert run.statuses[200] > 50  # the server says something else than no
            assert run.statuses[400] > 50
            return run.found

    parents = children(server.process.pid)
    found = asyncio.run(main())
    shown = {kind: (cases[0][0], cases[0][1].content[:500]) for kind, cases in found.items()}
    assert shown == {}
    assert children(server.process.pid) == parents


ERROR = {"message": "Not like this.", "type": "invalid_request_error", "param": "n", "code": None}


def answered(status: int, body: Any, kind: str = "application/json") -> Answer:
    text = body if isinstance(body, str) else json.dumps(body)
    return Answer(status, {"content-type": kind}, text)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (answered(500, {"error": ERROR}), "status 500"),
        (answered(422, {"detail": []}), "422 without an error object"),
        (answered(400, {"error": ERROR | {"param": None}}), "400 that names no field"),
        (answered(400, {"error": ERROR | {"message": "x" * 5000}}), "400 with a large body"),
        (answered(400, {"error": ERROR | {"hint": 1}}), "an error with the fields"),
        (
            answered(400, {"error": ERROR | {"message": "1 error for ChatRequest, see pydantic"}}),
            "400 that tells of 'pydantic'",
        ),
        (answered(200, '{"choices":'), "200 that is no JSON"),
        (answered(200, "data: {}\n\n", "text/event-stream"), "a stream that does not end"),
        (
            answered(200, f"data: {json.dumps({'error': ERROR})}\n\n", "text/event-stream"),
            "an error in a stream",
        ),
        (Answer(0, {}, "ReadTimeout"), "no answer: ReadTimeout"),
    ],
)
def test_the_judge_sees(answer: Answer, kind: str) -> None:
    found = list(wrong(Case("POST", CHAT, b"{}"), answer))
    assert [text for text in found if text.startswith(kind)], found


def test_the_judge_reads_what_is_constrained() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(?!^a)b"}}}
    named = {"name": "s", "schema": schema}
    body = {"response_format": {"type": "json_schema", "json_schema": named}}
    case = Case("POST", CHAT, encode(body))

    def judged(content: str) -> list[str]:
        choice = {"finish_reason": "stop", "message": {"content": content}}
        return list(wrong(case, answered(200, {"choices": [choice]})))

    assert judged('{"a": "ba"}') == []
    assert judged('{"a": "ab"}') == judged("{") == ["content that its schema forbids"]


def test_a_request_is_made_again_from_its_number() -> None:
    openapi: dict[str, Any] = {
        "paths": {
            "/x": {"post": {"requestBody": {"content": {"application/json": {"schema": {}}}}}}
        },
        "components": {"schemas": {}},
    }
    for make in ("described", "constraint"):
        one: Callable[[int], Case] = getattr(Bodies(openapi, 3), make)
        other: Callable[[int], Case] = getattr(Bodies(openapi, 3), make)
        made = [one(number) for number in range(50)]
        assert [other(number) for number in reversed(range(50))] == made[::-1]
        assert len({case.content for case in made}) > 10
        assert [Case.from_json(json.loads(json.dumps(case.to_json()))) for case in made] == made


def test_bodies_may_be_deeper_than_the_stack() -> None:
    innermost = {"é": None, "a": [1.5, "x", {}, [], True]}
    body: Any = innermost
    for _ in range(1500):
        body = {"b": [body, 1], "c": "\ud800"}
    expected = b'{"b":[' * 1500 + encode(innermost) + b',1],"c":"\\ud800"}' * 1500
    assert encode(body).replace(b" ", b"") == expected.replace(b" ", b"")


def test_a_failing_case_becomes_small() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        wrong = "n" in json.loads(request.content)
        return httpx.Response(500 if wrong else 400, json={"error": ERROR})

    async def main() -> Case:
        transport = httpx.MockTransport(answer)
        async with httpx.AsyncClient(base_url="http://server", transport=transport) as client:
            case = Case("POST", CHAT, encode({"a": [1, {"b": 2}], "n": "xxxx", "c": {}}))
            return await shrunk(client, case, f"status 500 of {CHAT}")

    assert asyncio.run(main()).body == {"n": "x"}
