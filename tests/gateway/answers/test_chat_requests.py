"""What a chat completion asks of the engine, and how it ends when that cannot be had."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from formgate.gateway.answers.chat_service import ChatService
from formgate.gateway.errors import ApiError, engine_died, queue_full
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.parse import parse_object

USER = {"role": "user", "content": "What is the weather in Paris?"}

Serve = Callable[..., ChatService]


def request_of(**fields: Any) -> ChatCompletionRequest:
    return parse_object(ChatCompletionRequest, {"model": "tiny", "messages": [USER], **fields})


def complete(service: ChatService, **fields: Any) -> None:
    ChatCompletion.model_validate(asyncio.run(service.complete(request_of(**fields))))


def stream(service: ChatService, **fields: Any) -> None:
    async def first() -> None:
        await anext(service.stream(request_of(stream=True, **fields)))

    asyncio.run(first())


def test_errors_come_before_the_first_chunk(serve: Serve, replay: Any) -> None:
    engine = replay("Hello")
    service = serve(engine)
    for fields, param in (
        ({"max_tokens": 5000}, "messages"),
        ({"logit_bias": {"9999": 1}}, "logit_bias"),
        ({"stop_token_ids": [9999]}, "stop_token_ids[0]"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"min_tokens": 9, "max_tokens": 5}, "min_tokens"),
    ):
        with pytest.raises(ApiError) as refused:
            stream(service, **fields)
        assert (refused.value.status, refused.value.param) == (400, param)
    engine.admission = queue_full(1)
    with pytest.raises(ApiError) as full:
        stream(service)
    assert full.value.status == 429
    engine.ready = None
    with pytest.raises(ApiError) as starting:
        complete(service)
    assert starting.value.status == 503
    assert not engine.requests


def test_an_engine_that_dies_ends_every_choice_with_its_error(serve: Serve, replay: Any) -> None:
    engine = replay("one two three four")
    engine.failure = engine_died()
    with pytest.raises(ApiError) as died:
        complete(serve(engine), n=2)
    assert died.value.status == 503


def test_a_client_that_leaves_aborts_every_choice(serve: Serve, replay: Any) -> None:
    engine = replay("a long answer that nobody will read to its end")

    async def leave() -> None:
        steps = serve(engine).stream(request_of(stream=True, n=3))
        await anext(steps)
        await steps.aclose()

    asyncio.run(leave())
    assert sorted(engine.closed) == sorted(request.request_id for request in engine.requests)
    assert len(engine.closed) == 3


def test_sampling_fields_reach_the_engine(serve: Serve, replay: Any) -> None:
    engine = replay("x")
    complete(serve(engine))
    params = engine.requests[0].params
    assert params.top_k == 7  # the model's generation_config.json
    assert params.max_tokens == 2048 - len(engine.requests[0].prompt_token_ids)
    complete(
        serve(engine),
        temperature=0,
        top_k=-1,
        max_completion_tokens=9,
        logit_bias={"5": -100},
        bad_words=["Paris"],
        stop_token_ids=[7],
        cache_salt="s",
        priority=3,
    )
    request = engine.requests[1]
    assert (request.params.temperature, request.params.top_k) == (0.0, 0)
    assert request.params.max_tokens == 9
    assert request.params.logit_bias == {5: -100.0}
    assert len(request.params.bad_words) == 2
    assert request.params.stop_token_ids == (7,)
    assert (request.cache_salt, request.priority) == ("s", 3)
