"""Event streams by real ASGI calls: the bytes, errors before and after the first, and clients that
leave.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec
import pytest
from starlette.types import Message

from formgate.gateway.errors import ApiError, bad_request
from formgate.gateway.http.disconnect import ClientDisconnected, until_disconnect
from formgate.gateway.http.sse import (
    DONE,
    Chunk,
    EventStream,
    encode_events,
    encode_json,
    encode_named_events,
)
from formgate.gateway.metrics import Metrics


class Point(msgspec.Struct):
    x: int


def test_chunks_of_every_kind_are_one_line_each() -> None:
    assert encode_events({"a": "é\n"}) == 'data: {"a":"é\\n"}\n\n'.encode()
    assert encode_events(Point(1)) == b'data: {"x":1}\n\n'
    assert encode_events(b'{"raw":1}') == b'data: {"raw":1}\n\n'
    assert encode_events([{"a": 1}, Point(2)]) == b'data: {"a":1}\n\ndata: {"x":2}\n\n'


async def chunks(*items: Chunk | Exception) -> AsyncGenerator[Chunk]:
    for item in items:
        if isinstance(item, Exception):
            raise item
        yield item


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


def sent(stream: AsyncGenerator[Chunk], metrics: Metrics | None = None) -> list[Message]:
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    asyncio.run(EventStream(stream, metrics or Metrics("m"))({"type": "http"}, never, send))
    return messages


def test_one_write_for_each_chunk_then_done() -> None:
    messages = sent(chunks({"a": 1}, [{"b": 2}, {"b": 3}]))
    assert messages[0]["status"] == 200
    assert dict(messages[0]["headers"])[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert [message["body"] for message in messages[1:]] == [
        b'data: {"a":1}\n\n',
        b'data: {"b":2}\n\ndata: {"b":3}\n\n',
        DONE,
    ]
    assert [message["more_body"] for message in messages[1:]] == [True, True, False]


def test_an_error_before_the_first_chunk_is_no_stream() -> None:
    with pytest.raises(ApiError, match="wrong"):
        sent(chunks(bad_request("wrong")))


@pytest.mark.parametrize(
    ("error", "expected"), [(bad_request("wrong"), b"wrong"), (KeyError("ours"), b"server_error")]
)
def test_an_error_after_it_is_an_event(error: Exception, expected: bytes) -> None:
    bodies = [message["body"] for message in sent(chunks({"a": 1}, error))[1:]]
    assert len(bodies) == 3
    assert bodies[1].startswith(b'data: {"error":{"message":')
    assert expected in bodies[1]
    assert b"ours" not in bodies[1]
    assert bodies[2] == DONE


def leaving_after(delay: float) -> Callable[[], Awaitable[Message]]:
    async def receive() -> Message:
        await asyncio.sleep(delay)
        return {"type": "http.disconnect"}

    return receive


def test_a_client_that_leaves_closes_the_stream_at_once() -> None:
    closed = False
    metrics = Metrics("m")

    async def endless() -> AsyncGenerator[Chunk]:
        nonlocal closed
        try:
            while True:
                yield {"a": 1}
                await asyncio.sleep(0.001)
        finally:
            closed = True

    async def send(_: Message) -> None:
        pass

    async def test() -> None:
        await EventStream(endless(), metrics)({"type": "http"}, leaving_after(0.02), send)
        assert closed

    asyncio.run(asyncio.wait_for(test(), 60))
    assert (
        'requests_aborted_by_disconnect_total{engine="0",model_name="m"} 1.0'
        in metrics.exposition().decode()
    )


def test_a_client_that_reads_nothing_and_leaves_ends_a_blocked_write() -> None:
    async def send(_: Message) -> None:
        await asyncio.Event().wait()

    stream = EventStream(chunks({"a": 1}), Metrics("m"))
    asyncio.run(asyncio.wait_for(stream({"type": "http"}, leaving_after(0.01), send), 60))


def test_work_is_cancelled_and_cleaned_up_before_the_client_is_given_up() -> None:
    steps: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("cleaned up")

    async def test() -> None:
        with pytest.raises(ClientDisconnected):
            await until_disconnect(leaving_after(0.01), work())
        steps.append("given up")

    asyncio.run(test())
    assert steps == ["cleaned up", "given up"]


def test_integers_of_any_size_are_written() -> None:
    payload = {"metadata": {"id": 10**30, "text": "é\u2028"}, "small": -1}
    assert json.loads(encode_json(payload)) == payload
    events = encode_named_events({"type": "response.created", "response": payload})
    assert json.loads(events.split(b"data: ")[1])["response"] == payload
