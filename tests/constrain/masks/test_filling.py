"""Rows that are filled together are the rows filled one by one."""

from __future__ import annotations

import json
from random import Random

import numpy as np
import pytest

from formgate.constrain.masks.closing import Budget
from formgate.constrain.masks.constraint import Constraint
from formgate.constrain.masks.parallel_masks import ParallelFiller

TREES = (
    {"kind": "json", "schema": {"type": "object", "properties": {"name": {"type": "string"}}}},
    {
        "kind": "json",
        "schema": {"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True},
    },
    {"kind": "regex", "pattern": "[a-f]{2,9}"},
    {"kind": "json_object"},
)


def specs(masks) -> list[str]:
    blueprints = [masks.compiler.blueprint(masks.spec(tree)) for tree in TREES]
    return [
        Constraint.of(blueprint, closing).dumps()
        for closing in (None, Budget(12, 4))
        for blueprint in blueprints
    ] * 2


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("padding", [0, 5])
def test_together_is_one_by_one(masks, num_threads: int, padding: int) -> None:
    texts = specs(masks)
    together = [masks.compiler.factory(text) for text in texts]
    alone = [masks.compiler.factory(text) for text in texts]
    words = -(-masks.size // 32)
    bitmask = np.full((len(texts) + 3, words + padding), -1, np.int32)
    expected = np.full((len(texts), words + padding), -1, np.int32)
    rows = list(range(2, len(texts) + 2))
    fill = ParallelFiller(words, num_threads=num_threads)
    random = Random(7)
    running = list(range(len(texts)))
    for _ in range(40):
        here = [rows[at] for at in running]
        assert fill([together[at] for at in running], here, bitmask) == [True] * len(running)
        for at in running:
            alone[at].fill_bitmask(expected[at])
            assert (bitmask[rows[at]] == expected[at]).all()
            bits = np.unpackbits(bitmask[rows[at]].view(np.uint8), bitorder="little")
            token = random.choice(np.flatnonzero(bits).tolist())
            together[at].accept(token)
            alone[at].accept(token)
        running = [at for at in running if not together[at].is_terminated()]
    assert (bitmask[[0, 1, -1]] == -1).all(), "rows of others"
    assert len(running) < len(texts)


def test_a_constraint_that_fails_fails_alone(masks) -> None:
    tree = {"kind": "json", "schema": json.loads('{"type": "integer"}')}
    constraints = [masks.compiler.compile(masks.spec(tree)).start() for _ in range(6)]
    with pytest.raises(RuntimeError, match="doesn't satisfy"):
        constraints[2].accept(ord("x"))
    words = -(-masks.size // 32)
    bitmask = np.zeros((6, words), np.int32)
    results = ParallelFiller(words, num_threads=2)(constraints, range(6), bitmask)
    assert isinstance(results[2], ValueError)
    assert [result for at, result in enumerate(results) if at != 2] == [True] * 5
    assert (bitmask[[0, 1, 3, 4, 5]] == bitmask[0]).all()
    assert bitmask[0].any()
