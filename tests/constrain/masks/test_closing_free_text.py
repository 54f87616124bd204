"""Ways to the end of an answer that lead through free text and special tokens: what ends those is
not to be seen in a mask.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from formgate.constrain.compiler import GrammarCompiler
from formgate.constrain.masks.constraint import Constraint
from formgate.constrain.masks.vocabulary import Vocabulary

EOS, OPEN, END = 256, 257, 258
TOKENS = [*(bytes([i]) for i in range(256)), b"</s>", b"<call>", b"<end>"]


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    vocabulary = Vocabulary(tuple(TOKENS), frozenset((EOS, OPEN, END)), (EOS,))
    return GrammarCompiler(vocabulary, padded_vocab_size=len(TOKENS))


def text(value: str) -> dict[str, Any]:
    return {"kind": "text", "value": value}


THOUGHT = {"kind": "free_text_until", "text": "</think>"}
VALUE = {"kind": "free_text_until", "text": "</parameter>"}
SAID = {"kind": "regex", "pattern": "'[^'\\x00-\\x1f]*'"}
CALLS = {
    "kind": "repeat",
    "item": {"kind": "seq", "items": [{"kind": "token", "id": OPEN, "text": "<call>"}, text("f")]},
    "min": 1,
    "max": None,
}
TREES = {
    "reasoning": [THOUGHT, text('{"a": 1}')],
    "tagged": [THOUGHT, text("<parameter=a>"), VALUE, text("<parameter=b>"), VALUE],
    "quoted": [text("f(a="), SAID, text(")")],
    "calls": [{"kind": "free"}, CALLS, {"kind": "token", "id": END, "text": "<end>"}],
}


@pytest.mark.parametrize("name", TREES)
def test_a_free_text_is_closed_in_time(name: str, compiler: GrammarCompiler) -> None:
    tree = {"kind": "seq", "items": TREES[name]}
    spec = json.dumps({"tree": tree})
    budget, blueprint = 150, compiler.blueprint(spec)
    closing = compiler.closing(blueprint, compiler.shortest(spec), budget)
    constraint = compiler.factory(Constraint.of(blueprint, closing).dumps())
    row = np.zeros(-(-len(TOKENS) // 32), np.int32)
    written: list[int] = []
    while not constraint.is_terminated():
        constraint.fill_bitmask(row)
        allowed = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little"))
        # Text for as long as there may be some.
        token = ord("n") if ord("n") in allowed else int(allowed[0])
        constraint.accept(token)
        written.append(token)
        assert len(written) <= budget
    assert constraint.closed
    shown = b"".join(TOKENS[token] for token in written if token != EOS)
    assert shown.count(b"n") > 10
    last = TREES[name][-1]
    assert shown.decode().endswith(last.get("value") or last["text"])
