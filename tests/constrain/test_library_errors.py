"""No message of llguidance's reaches a client."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from formgate.constrain.compiler import GrammarCompiler, Limits
from formgate.constrain.errors import ConstraintError
from formgate.constrain.library_errors import failed, is_limit, refused
from formgate.constrain.masks.matcher import GrammarConstraint

LIBRARY_WORDS = ("NoExtensionBias", "non-verbose", "ff_tokens", "lexeme", "fuel", "llguidance")
MESSAGES = [
    "NoExtensionBias\n<non-verbose/>",
    "parser error: Too many items (limit 50000; ff_tokens); try avoiding short lexemes\n<non-v/>",
    "grammar size (number of symbols) too large: 500001 > 500000",
    "initial lexer configuration (grammar) too big (limit for this grammar: 1000000)\n fuel",
    "Parser Error: lexer error: too many states",
    "Parser Error: Current row has 60003 items; max is 20000; consider making it left-recursive",
]


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("told", [refused, failed])
def test_in_words_of_our_own(message: str, told: Callable[[str], Exception]) -> None:
    assert not any(word in str(told(message)) for word in LIBRARY_WORDS)


def test_a_row_that_is_too_long_is_a_limit() -> None:
    assert is_limit(MESSAGES[-1])


@pytest.mark.parametrize("lark", ['start: "a"{100000}', 'start: a{1000}\na: b{1000}\nb: "x"{1000}'])
def test_a_limit_in_the_text_that_every_answer_begins_with(masks, lark: str) -> None:
    """It is met before the first token, not by it."""
    with pytest.raises(ConstraintError, match="too complex"):
        masks.compiler.compile(masks.spec({"kind": "lark", "source": lark}))


def test_a_grammar_that_is_too_much(masks) -> None:
    limits = Limits(max_grammar_size=20)
    compiler = GrammarCompiler(masks.vocabulary, padded_vocab_size=masks.size, limits=limits)
    spec = masks.spec({"kind": "json", "schema": {"enum": [{"a": i} for i in range(60)]}})
    with pytest.raises(ConstraintError, match="too complex") as caught:
        compiler.compile(spec)
    assert not any(word in caught.value.message for word in LIBRARY_WORDS)


@pytest.fixture(scope="module")
def strained(masks) -> GrammarConstraint:
    """One that runs into a limit once it is asked for a mask."""
    limits = Limits(step_max_items=20)
    compiler = GrammarCompiler(masks.vocabulary, padded_vocab_size=masks.size, limits=limits)
    many = {"enum": [{"a": i, "b": [i]} for i in range(200)]}
    behind = {"kind": "free_text_until", "text": "<"}  # so that it is not met at the start
    tree = {"kind": "seq", "items": [behind, {"kind": "json", "schema": many}]}
    constraint: GrammarConstraint = compiler.compile(masks.spec(tree)).start()
    return constraint


def follow(constraint: GrammarConstraint, text: bytes, words: int) -> None:
    row = np.zeros(words, np.int32)
    for token in text:
        constraint.forced_tokens()
        constraint.fill_bitmask(row)
        constraint.accept(token)


def test_a_limit_while_masks_are_made(strained, masks) -> None:
    with pytest.raises(ValueError, match="too many ways to go on") as caught:
        follow(strained, b'x<{"a": 1', -(-masks.size // 32))
    assert not any(word in str(caught.value) for word in LIBRARY_WORDS)
