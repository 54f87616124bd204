"""A fold holds what the steps of a choice said; tokens only when it is asked to keep them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from formgate.gateway.answers.answer import Answer
from formgate.gateway.answers.answer_fold import AnswerFold, ChoiceStep
from formgate.gateway.answers.chat_service import ChatService
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.parse import parse_object

CALL = '[TOOL_CALLS] [{"name": "f", "arguments": {"city": "Paris"}}]'
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CASES: list[Any] = [
    pytest.param("Hello, world! 你好", {}, id="text"),
    pytest.param(CALL, {"tools": [TOOL]}, id="call"),
    pytest.param("one two three", {"max_tokens": 3}, id="length"),
    pytest.param("one sunny two", {"stop": "sunny"}, id="stop"),
    pytest.param("", {}, id="nothing"),
]


def run(
    service: ChatService, *, keeps_tokens: bool, **fields: Any
) -> tuple[Answer, list[ChoiceStep]]:
    body = {"messages": [{"role": "user", "content": "x"}], **fields}

    async def collect() -> tuple[Answer, list[ChoiceStep]]:
        request = parse_object(ChatCompletionRequest, body)
        answer = await service.answer(request, keeps_tokens=keeps_tokens)
        return answer, [step async for step in answer.steps()]

    return asyncio.run(collect())


@pytest.mark.parametrize("tokens", [False, True], ids=["text", "tokens"])
@pytest.mark.parametrize("burst", [1, 3, 100])
@pytest.mark.parametrize(("text", "fields"), CASES)
def test_the_fold_of_a_choice_is_that_of_its_steps(
    text: str,
    fields: dict[str, Any],
    burst: int,
    tokens: bool,
    serve: Callable[..., ChatService],
    replay: Any,
    tokenizer: Tokenizer,
) -> None:
    service = serve(replay(text, burst=burst))
    answer, steps = run(service, keeps_tokens=tokens, logprobs=tokens, **fields)
    fold = answer.choices[0].fold
    again = AnswerFold(keeps_tokens=tokens)
    for step in steps:
        again.add_step(step)
    assert (fold.content, fold.reasoning) == (again.content, again.reasoning)
    assert [(c.name, c.arguments) for c in fold.calls] == [
        (c.name, c.arguments) for c in again.calls
    ]
    assert fold.finish_reason == again.finish_reason == steps[-1].finish_reason
    assert (fold.token_ids, fold.logprobs) == (again.token_ids, again.logprobs)
    if tokens:
        assert len(fold.token_ids) == answer.usage.completion_tokens
        ends = sum(token in tokenizer.eos_ids for token in fold.token_ids)  # no part of the text
        assert len(fold.logprobs) == len(fold.token_ids) - ends


def test_a_stream_keeps_no_tokens(serve: Callable[..., ChatService], replay: Any) -> None:
    answer, steps = run(serve(replay("Hello")), keeps_tokens=False, logprobs=True)
    fold = answer.choices[0].fold
    assert any(step.logprobs for step in steps)
    assert (fold.content, fold.token_ids, fold.logprobs) == ("Hello", [], [])
