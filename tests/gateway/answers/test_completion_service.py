from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest
from openai.types import Completion

from formgate.gateway.answers.answer_plan import AnswerPlanner
from formgate.gateway.answers.completion_service import CompletionService
from formgate.gateway.errors import ApiError, bad_request
from formgate.gateway.metrics import Metrics
from formgate.gateway.model.model_profile import ModelProfile
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.protocol.completion import CompletionRequest
from formgate.gateway.protocol.parse import parse_object

Serve = Callable[..., CompletionService]


@pytest.fixture
def serve(profile: ModelProfile, planner: AnswerPlanner) -> Serve:
    return lambda engine: CompletionService(profile, engine, planner)


def request_of(**fields: Any) -> CompletionRequest:
    return parse_object(CompletionRequest, {"prompt": "Hello, ", **fields})


def complete(service: CompletionService, **fields: Any) -> dict[str, Any]:
    answer = asyncio.run(service.complete(request_of(**fields)))
    if not fields.get("echo"):  # a first token's null is OpenAI's own, against its own types
        Completion.model_validate(answer)
    return json.loads(json.dumps(answer))


def stream(service: CompletionService, **fields: Any) -> list[dict[str, Any]]:
    async def collect() -> list[dict[str, Any]]:
        async with aclosing(service.stream(request_of(stream=True, **fields))) as steps:
            return [chunk async for chunks in steps for chunk in chunks]

    return json.loads(json.dumps(asyncio.run(collect())))


def texts(chunks: list[dict[str, Any]]) -> dict[int, str]:
    said: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            said[choice["index"]] = said.get(choice["index"], "") + choice["text"]
    return said


def test_a_text_is_continued(serve: Serve, replay: Any, tokenizer: Tokenizer) -> None:
    engine = replay("world! 你好 \U0001f600")
    answer = complete(serve(engine), max_tokens=100)
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    assert answer["model"] == "tiny"
    assert answer["choices"][0]["text"] == "world! 你好 \U0001f600"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert engine.requests[0].prompt_token_ids == tokenizer.encode("Hello, ")
    assert answer["usage"]["prompt_tokens"] == len(tokenizer.encode("Hello, "))


@pytest.mark.parametrize("burst", [1, 3, 100])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"echo": True},
        {"n": 2},
        {"prompt": ["a", "b"], "echo": True, "n": 2},
        {"stop": ["thr"]},
        {"max_tokens": 3},
    ],
    ids=str,
)
def test_the_stream_folds_to_the_whole_answer(
    serve: Serve, replay: Any, fields: dict[str, Any], burst: int
) -> None:
    options = {"include_usage": True}
    chunks = stream(
        serve(replay("one two three", "four", burst=burst)), stream_options=options, **fields
    )
    answer = complete(serve(replay("one two three", "four")), **fields)
    assert texts(chunks) == {choice["index"]: choice["text"] for choice in answer["choices"]}
    assert chunks[-1]["choices"] == []
    if "stop" not in fields:
        assert chunks[-1]["usage"] == answer["usage"]
    ends = [c["choices"][0]["finish_reason"] for c in chunks[:-1] if c["choices"]]
    assert sorted(filter(None, ends)) == sorted(c["finish_reason"] for c in answer["choices"])


def test_prompts_of_every_kind(serve: Serve, replay: Any, tokenizer: Tokenizer) -> None:
    engine = replay("x")
    ids = tokenizer.encode("Paris", add_special_tokens=False)
    complete(serve(engine), prompt=ids)
    complete(serve(engine), prompt=[ids, ids])
    complete(serve(engine), prompt=["Paris", "Paris"])
    prompts = [request.prompt_token_ids for request in engine.requests]
    assert prompts == [ids, ids, ids, [1, *ids], [1, *ids]]
    with pytest.raises(ApiError) as refused:
        complete(serve(engine), prompt=[9999])
    assert refused.value.param == "prompt[0]"


def test_logprobs_are_four_lists_of_one_length(serve: Serve, replay: Any) -> None:
    fields: dict[str, Any] = {"logprobs": 2, "echo": True}
    choice = complete(serve(replay("world!")), **fields)["choices"][0]
    logprobs = choice["logprobs"]
    assert len({len(values) for values in logprobs.values()}) == 1
    assert logprobs["token_logprobs"][0] is None
    assert "".join(logprobs["tokens"][1:]) == "Hello, world!"
    assert {len(top) for top in logprobs["top_logprobs"][1:]} <= {2, 3}  # the k best and the chosen
    assert logprobs["text_offset"] == sorted(logprobs["text_offset"])
    chunks = stream(serve(replay("world!")), **fields)
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"]]
    for name, values in logprobs.items():
        assert [value for part in parts for value in part[name]] == values


def test_only_the_echo(serve: Serve, replay: Any) -> None:
    answer = complete(serve(replay("unwanted")), max_tokens=0, echo=True, logprobs=1)
    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("Hello, ", "length")
    assert answer["usage"]["completion_tokens"] == 0


def test_the_best_of_several(serve: Serve, replay: Any) -> None:
    engine = replay("one", "two", "three")
    answer = complete(serve(engine), best_of=3, n=2)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert len(engine.requests) == 3
    assert engine.requests[0].params.logprobs == 0
    assert answer["choices"][0]["logprobs"] is None


def test_a_constraint_and_too_long_a_prompt(serve: Serve, replay: Any) -> None:
    engine = replay("yes")
    complete(serve(engine), guided_choice=["yes", "no"])
    assert '"yes" | "no"' in json.loads(engine.requests[0].constraint)["blueprint"]["source"]
    with pytest.raises(ApiError) as refused:
        complete(serve(engine), prompt=[5] * 2048)
    assert refused.value.code == "context_length_exceeded"


def test_token_ids(serve: Serve, replay: Any, tokenizer: Tokenizer) -> None:
    choice = complete(serve(replay("world")), return_token_ids=True)["choices"][0]
    assert choice["token_ids"] == [*tokenizer.encode("world", add_special_tokens=False), 2]
    assert choice["prompt_token_ids"] == tokenizer.encode("Hello, ")


def test_a_constraint_at_its_limit_is_blamed_on_its_field(serve: Serve, replay: Any) -> None:
    engine = replay("one two three")
    engine.failure = bad_request("Too much.", "constraint", "schema_too_complex")
    with pytest.raises(ApiError) as refused:
        complete(serve(engine), guided_regex="one two three")
    assert (refused.value.status, refused.value.param) == (400, "guided_regex")
    assert refused.value.code == "schema_too_complex"


@pytest.mark.parametrize("fields", [{"n": 3}, {"n": 1, "best_of": 3}])
@pytest.mark.parametrize("streamed", [False, True])
def test_what_a_choice_finds_of_another_was_not_cached(
    serve: Serve, replay: Any, metrics: Metrics, fields: dict[str, int], streamed: bool
) -> None:
    if streamed and "best_of" in fields:
        fields = {"n": 3}
    engine = replay("a", "bcd", "ef")
    # The prompts have 4 and 6 tokens; the first choice of each finds what was there before.
    engine.cached = [2, 4, 4, 0, 6, 6]
    prompts = [[1, 2, 3, 4], [5, 6, 7, 8, 9, 10]]
    if streamed:
        options = {"include_usage": True}
        usage = stream(serve(engine), prompt=prompts, stream_options=options, **fields)[-1]["usage"]
    else:
        usage = complete(serve(engine), prompt=prompts, **fields)["usage"]
    assert usage["prompt_tokens"] == 10
    assert usage["prompt_tokens_details"]["cached_tokens"] == 2
    text = metrics.exposition().decode()
    assert 'vllm:request_params_n_sum{engine="0",model_name="tiny"} 6.0' in text
    assert 'vllm:request_params_n_count{engine="0",model_name="tiny"} 2.0' in text
    longest = 2 * len("bcd") + 2  # each with the token that ends it
    name = 'vllm:request_max_num_generation_tokens_sum{engine="0",model_name="tiny"}'
    assert f"{name} {longest}.0" in text


def test_words_and_ids_are_worked_out_once_for_all_prompts(serve: Serve, replay: Any) -> None:
    engine = replay("x")
    fields: dict[str, Any] = {
        "bad_words": ["never", "no"],
        "logit_bias": {"5": 1.0},
        "allowed_token_ids": [2, 5, 6],
        "n": 2,
    }
    complete(serve(engine), prompt=["Hello", "Hello, world"], max_tokens=4, **fields)
    first, *others = [request.params for request in engine.requests]
    assert len(others) == 3
    assert len(first.bad_words) > 1
    for params in others:
        assert params.bad_words is first.bad_words
        assert params.logit_bias is first.logit_bias
        assert params.allowed_token_ids is first.allowed_token_ids


def test_a_long_prompt_is_truncated_to_its_last_tokens(
    serve: Serve, replay: Any, tokenizer: Tokenizer
) -> None:
    engine = replay("x")
    text = "Hello, world! " * 20_000
    complete(serve(engine), prompt=text, truncate_prompt_tokens=7, max_tokens=4)
    assert engine.requests[0].prompt_token_ids == tokenizer.encode(text)[-7:]
