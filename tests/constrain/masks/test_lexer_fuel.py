"""Patterns that are dear to follow: a mask that takes long is better than a request that fails."""

from __future__ import annotations

import json
import random

import pytest

from formgate.constrain.compiler import GrammarCompiler, Limits


def test_counted_words_within_a_length(masks) -> None:
    pattern = r"^$|(^(?:\S+\s+){0,99}\S+$)"
    words = {"type": "string", "minLength": 1, "maxLength": 5000, "pattern": pattern}
    schema = {"type": "object", "properties": {"question": words, "answer": words}}
    tree = {"kind": "json", "schema": schema}
    assert masks.accepts(tree, json.dumps({"question": "What is it?", "answer": "x " * 99 + "x"}))
    assert not masks.accepts(tree, json.dumps({"answer": "x " * 100 + "x"}))


def test_a_lexer_that_has_met_a_limit_is_not_used_again(masks) -> None:
    compiler = GrammarCompiler(
        masks.vocabulary, padded_vocab_size=masks.size, limits=Limits(max_lexer_states=300)
    )
    tree = {"kind": "regex", "pattern": "(?!.*a[ab]{14}c).*"}
    compiled = compiler.compile(masks.spec(tree))
    dear, beside = compiled.start(), compiled.start()
    with pytest.raises(ValueError, match="too many ways to go on"):
        _write_until_refused(masks, dear)
    assert not beside.follows(list(b"hello"))  # else the lexer need not be dropped
    later = compiler.compile(masks.spec(tree)).start()
    assert later.follows(list(b"hello"))
    for token in b"hello":
        assert token in masks.allowed(later)
        later.accept(token)
    assert compiled.takes(list(b"hello"))


def test_copies_share_what_becomes_of_their_lexer(masks) -> None:
    """A guarded one is copied to look ahead, which may be what meets the limit."""
    schema = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
    constraint = masks.start({"kind": "json", "schema": schema})
    assert constraint.copy().prepared()[0] == constraint.prepared()[0]


def _write_until_refused(masks, constraint) -> None:
    rng = random.Random(1)
    for _ in range(1000):
        masks.allowed(constraint)
        constraint.accept(ord(rng.choice("ab")))
