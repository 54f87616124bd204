"""One sequence's constraint: masks, taking tokens back, and what the grammar forces."""

from __future__ import annotations

import json
from random import Random

import numpy as np
import pytest

from formgate.constrain.compiler import GrammarCompiler
from formgate.constrain.masks.vocabulary import Vocabulary

OBJECT = {
    "kind": "json",
    "schema": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "items": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["name", "items"],
        "additionalProperties": False,
    },
}  # fmt: skip


def test_words_past_the_vocabulary_are_cleared(masks) -> None:
    row = np.full(40, -1, np.int32)
    assert masks.start(OBJECT).fill_bitmask(row)
    assert not row[-(-masks.size // 32) :].any()
    assert row.any()


def test_a_token_that_is_not_allowed_is_an_error_for_this_sequence_only(masks) -> None:
    one, other = masks.start(OBJECT), masks.start(OBJECT)
    with pytest.raises(RuntimeError, match="token"):
        one.accept(ord("x"))
    other.accept(ord("{"))
    assert masks.allowed(other)


def test_rollback_undoes_exactly_the_last_tokens(masks) -> None:
    r = Random(3)
    constraint = masks.start(OBJECT)
    history = []
    for _ in range(150):
        allowed = masks.allowed(constraint)
        history.append(allowed)
        constraint.accept(r.choice(sorted(allowed - {masks.EOS}) or [masks.EOS]))
        if constraint.is_terminated() or r.random() < 0.3:
            back = r.randint(1, len(history))
            constraint.rollback(back)
            assert masks.allowed(constraint) == history[-back]
            del history[-back:]
    assert history


def test_forced_tokens_are_the_tokenizers_own(masks, embedded_tokenizer) -> None:
    """Re-tokenizing the text gives the same tokens: never a split the model did not see."""
    size = embedded_tokenizer.get_vocab_size()
    special = frozenset(range(14))
    alphabet = {v: k for k, v in _byte_alphabet().items()}
    tokens = tuple(
        embedded_tokenizer.id_to_token(i).encode()
        if i in special
        else bytes(alphabet[c] for c in embedded_tokenizer.id_to_token(i))
        for i in range(size)
    )

    def encode(text: bytes) -> list[int]:
        ids: list[int] = embedded_tokenizer.encode(
            text.decode("utf-8", "replace"), add_special_tokens=False
        ).ids
        return ids

    vocabulary = Vocabulary(tokens, special, (2,), encode)
    compiler = GrammarCompiler(vocabulary, padded_vocab_size=size)
    constraint = compiler.compile(masks.spec(OBJECT)).start()
    forced = constraint.forced_tokens()
    assert forced
    text = embedded_tokenizer.decode(forced)
    assert '{"name": "'.startswith(text)
    assert encode(text.encode()) == forced


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-ins for bytes, as byte-level BPE writes them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(others)}


def test_the_walk_ends_in_the_end_token(masks) -> None:
    text = '{"name": "x", "items": [1, 2]}'
    constraint = masks.start(OBJECT)
    for byte in text.encode():
        constraint.accept(byte)
    assert constraint.is_terminated() or masks.allowed(constraint) == {masks.EOS}
    assert json.loads(text)
