"""The limit on the tokens of the reasoning: where it ends, whatever the model would rather say."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest

from formgate.constrain.compiler import GrammarCompiler
from formgate.constrain.masks.closing import Budget
from formgate.constrain.masks.constraint import Constraint
from formgate.constrain.masks.thinking import ThinkingBudget
from formgate.constrain.masks.vocabulary import Vocabulary

EOS, OPEN, CLOSE = 256, 257, 258
WORDS = [b"think", b"</", b">\n", b"</think>", "é".encode(), b' "', b"hmm"]
TOKENS = [*(bytes([i]) for i in range(256)), b"</s>", b"<think>", b"</think>", *WORDS]
SIZE = len(TOKENS)

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}},
    "additionalProperties": False,
}
ANSWER = {"kind": "json", "schema": SCHEMA}
GAP = {"kind": "regex", "pattern": r"\n{0,2}"}
SPECIAL = [{"kind": "free"}, {"kind": "token", "id": CLOSE, "text": "</think>"}]
TYPED = [{"kind": "free_text_until", "text": "</think>"}]
OPENING = {"kind": "token", "id": OPEN, "text": "<think>"}


def seq(*items: Any) -> Any:
    return {"kind": "seq", "items": list(items)}


def maybe(item: Any) -> Any:
    return {"kind": "repeat", "item": item, "min": 0, "max": 1}


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    vocabulary = Vocabulary(tuple(TOKENS), frozenset((EOS, OPEN, CLOSE)), (EOS,))
    return GrammarCompiler(vocabulary, padded_vocab_size=SIZE)


def start(
    compiler: GrammarCompiler, tree: Any, budget: ThinkingBudget, closing: Budget | None = None
) -> Any:
    blueprint = compiler.blueprint(json.dumps({"tree": tree}))
    return compiler.factory(Constraint.of(blueprint, closing, budget).dumps())


def allowed_by(constraint: Any) -> list[int]:
    row = np.zeros(-(-SIZE // 32), np.int32)
    assert constraint.fill_bitmask(row)
    return np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist()


def write(constraint: Any, rng: random.Random, *, avoid: tuple[int, ...] = ()) -> list[int]:
    """Whatever is allowed, to the end; what is to be avoided only where nothing else is left."""
    written: list[int] = []
    while not constraint.is_terminated():
        allowed = allowed_by(constraint)
        if EOS in allowed:
            return written
        forced = constraint.forced_tokens()
        liked = [token for token in allowed if token not in avoid]
        written.append(forced[0] if forced else rng.choice(liked or allowed))
        constraint.accept(written[-1])
        assert len(written) < 500
    return written


@pytest.mark.parametrize("limit", [1, 2, 7, 40])
@pytest.mark.parametrize("opened", [True, False], ids=["open", "optional"])
def test_the_reasoning_ends_at_its_limit(compiler: Any, limit: int, opened: bool) -> None:
    region = seq(*SPECIAL, GAP)
    tree = seq(region if opened else maybe(seq(OPENING, region)), ANSWER)
    budget = ThinkingBudget(limit, () if opened else (OPEN,), (CLOSE,))
    for seed in range(20):
        constraint = start(compiler, tree, budget)
        written = [] if opened else [OPEN]
        for token in written:
            constraint.accept(token)
        ascii_only = tuple(range(0x80, 0x100))
        written += write(constraint, random.Random(seed), avoid=(CLOSE, *ascii_only))
        start_of_region = 0 if opened else 1
        assert written.index(CLOSE) - start_of_region == limit
        answer = b"".join(TOKENS[token] for token in written[written.index(CLOSE) + 1 :])
        assert isinstance(json.loads(answer), dict)


def test_an_answer_without_reasoning_is_left_alone(compiler: Any) -> None:
    tree = seq(maybe(seq(OPENING, *SPECIAL)), {"kind": "free"})
    constraint = start(compiler, tree, ThinkingBudget(2, (OPEN,), (CLOSE,)))
    for byte in b"no need to think </think> about it":
        constraint.accept(byte)
        assert EOS in allowed_by(constraint)


def test_a_model_that_ends_its_reasoning_early_has_no_limit_behind_it(compiler: Any) -> None:
    tree = seq(*SPECIAL, {"kind": "free"})
    constraint = start(compiler, tree, ThinkingBudget(3, (), (CLOSE,)))
    for token in (*b"ab", CLOSE, *b"much longer than three tokens"):
        assert token in allowed_by(constraint)
        constraint.accept(token)
    assert len(allowed_by(constraint)) > 100


@pytest.mark.parametrize("thought", [b"hmm hm", b"</thin", b"</th</"])
def test_a_typed_marker_is_forced_in_the_tokenizers_own_tokens(compiler: Any, thought: Any) -> None:
    tree = seq(*TYPED, GAP, ANSWER)
    constraint = start(compiler, tree, ThinkingBudget(len(thought), (), ("</think>",)))
    for byte in thought:
        assert byte in allowed_by(constraint)
        constraint.accept(byte)
    typed = TOKENS.index(b"</think>", CLOSE + 1)
    assert constraint.forced_tokens() == [typed]
    assert allowed_by(constraint) == [typed]
    constraint.accept(typed)
    assert ord("{") in allowed_by(constraint)


def test_a_typed_marker_may_come_in_any_tokens(compiler: Any) -> None:
    tree = seq(*TYPED, GAP, ANSWER)
    constraint = start(compiler, tree, ThinkingBudget(4, (), ("</think>",)))
    for token in (b"h", b"</", b"think", b">\n"):
        constraint.accept(TOKENS.index(token))
    assert ord("{") in allowed_by(constraint)
    constraint.accept(ord("{"))
    assert len(allowed_by(constraint)) > 1


def test_a_character_that_has_begun_is_finished_first(compiler: Any) -> None:
    constraint = start(compiler, seq(*SPECIAL, ANSWER), ThinkingBudget(1, (), (CLOSE,)))
    first, second = "é".encode()
    constraint.accept(first)
    assert second in allowed_by(constraint)
    assert CLOSE not in allowed_by(constraint)
    constraint.accept(second)
    assert allowed_by(constraint) == [CLOSE]


def test_rolling_back_gives_the_tokens_back(compiler: Any) -> None:
    constraint = start(compiler, seq(*SPECIAL, GAP, ANSWER), ThinkingBudget(3, (), (CLOSE,)))
    for token in (*b"abc", CLOSE, *b'{"a'):
        allowed_by(constraint)
        constraint.accept(token)
    constraint.rollback(3)
    assert ord("{") in allowed_by(constraint)
    constraint.rollback(1)
    assert allowed_by(constraint) == [CLOSE]
    constraint.rollback(1)
    assert len(allowed_by(constraint)) > 100
    constraint.accept(ord("d"))
    copied = constraint.copy()
    assert allowed_by(copied) == allowed_by(constraint) == [CLOSE]


def test_the_budget_of_the_whole_answer_goes_around_it(compiler: Any) -> None:
    tree = seq(*SPECIAL, GAP, ANSWER)
    constraint = start(compiler, tree, ThinkingBudget(30, (), (CLOSE,)), Budget(60, 20))
    characters = tuple(range(0x80, 0x100))  # one that has begun is finished first
    written = write(constraint, random.Random(1), avoid=(CLOSE, *characters))
    assert written.index(CLOSE) <= 30
    assert len(written) <= 60
