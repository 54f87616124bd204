"""`thinking_token_budget`, from the request to the constraint of its answer."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from formgate.constrain.compiler import GrammarCompiler
from formgate.engine.messages import TokenOutput
from formgate.gateway.answers.answer_plan import AnswerPlan, AnswerPlanner
from formgate.gateway.answers.choice import Choice
from formgate.gateway.metrics import Metrics
from formgate.gateway.model.model_profile import ModelProfile
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.parse import parse_object

PARAMETERS = {
    "type": "object",
    "properties": {"a": {"enum": ["x", "y"]}},
    "required": ["a"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": PARAMETERS}}
KINDS: dict[str, dict[str, Any]] = {
    "text": {},
    "response_format": {"response_format": FORMAT},
    "tools": {"tools": [TOOL], "tool_choice": "required"},
    "both": {"tools": [TOOL], "response_format": FORMAT},
}
OPENED, UNDECIDED = [1, 3, 4, 12], [1, 3, 4]  # prompts with <think> at their end and without


@pytest.fixture
def undecided(profile: ModelProfile, local_compiling: Any, metrics: Metrics) -> AnswerPlanner:
    """Of a model that opens its reasoning by itself."""
    assert profile.reasoning_format is not None
    reasoning = replace(profile.reasoning_format, may_open=True)
    return AnswerPlanner(replace(profile, reasoning_format=reasoning), local_compiling, metrics)


def plan(planner: AnswerPlanner, prompt: list[int], **fields: Any) -> AnswerPlan:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    return asyncio.run(planner.plan_chat(parse_object(ChatCompletionRequest, body), prompt))


def answered(
    plan: AnswerPlan, compiler: GrammarCompiler, tokenizer: Tokenizer, begin: list[int]
) -> tuple[list[int], Choice]:
    """By a model that would rather go on thinking for ever."""
    assert plan.constraint is not None
    constraint = compiler.factory(plan.constraint)
    rng = random.Random(plan.constraint)
    close = tokenizer.special_ids["</think>"]
    words = {i for i, token in enumerate(tokenizer.token_bytes) if token.strip().isalpha()}
    row = np.zeros(16, np.int32)
    written: list[int] = []
    while len(written) < 200 and not constraint.is_terminated():
        constraint.fill_bitmask(row)
        bits = np.unpackbits(row.view(np.uint8), bitorder="little")
        allowed = set(np.flatnonzero(bits).tolist())
        closing = {*tokenizer.eos_ids} & allowed if close in written or not begin else set()
        token = begin[len(written)] if len(written) < len(begin) else None
        if token is None:
            liked = closing or (allowed & words) or (allowed - {close}) or allowed
            token = rng.choice(sorted(liked))
        assert token in allowed
        written.append(token)
        if token in tokenizer.eos_ids:
            break
        constraint.accept(token)
    choice = Choice(0, plan.settings)
    ended = written[-1] in tokenizer.eos_ids
    output = TokenOutput("0", written, "stop" if ended else "length")
    choice.feed(msgspec.structs.replace(output, stop_token_id=written[-1] if ended else None))
    return written, choice


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("budget", [1, 6])
@pytest.mark.parametrize("opened", [True, False], ids=["open", "optional"])
def test_the_reasoning_has_so_many_tokens(
    kind: str,
    budget: int,
    opened: bool,
    undecided: AnswerPlanner,
    compiler: GrammarCompiler,
    tokenizer: Tokenizer,
) -> None:
    prompt = OPENED if opened else UNDECIDED
    made = plan(undecided, prompt, thinking_token_budget=budget, **KINDS[kind])
    begin = [tokenizer.encode("hm", add_special_tokens=False)[0]] if opened else [12]
    written, choice = answered(made, compiler, tokenizer, begin)
    close = tokenizer.special_ids["</think>"]
    assert written.index(close) == budget + (0 if opened else 1)
    assert choice.num_reasoning_tokens == written.index(close) + 1  # the markers count with it
    assert choice.fold.reasoning
    if kind == "response_format":
        assert json.loads(choice.fold.content)["a"] in ("x", "y")
    if kind == "tools":
        assert {call.name for call in choice.fold.calls} == {"f"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("opened", [True, False], ids=["open", "optional"])
def test_a_budget_of_nothing_means_no_reasoning(
    kind: str,
    opened: bool,
    undecided: AnswerPlanner,
    compiler: GrammarCompiler,
    tokenizer: Tokenizer,
) -> None:
    prompt = OPENED if opened else UNDECIDED
    made = plan(undecided, prompt, thinking_token_budget=0, **KINDS[kind])
    close = tokenizer.special_ids["</think>"]
    written, choice = answered(made, compiler, tokenizer, [close] if opened else [])
    assert tokenizer.special_ids["<think>"] not in written
    assert (close in written) == opened
    assert choice.fold.reasoning == ""
    assert choice.num_reasoning_tokens == int(opened)


def test_a_model_that_does_not_reason_needs_no_budget(
    profile: ModelProfile, planner: AnswerPlanner
) -> None:
    assert plan(planner, [1, 3, 12, 13], thinking_token_budget=5).constraint is None
