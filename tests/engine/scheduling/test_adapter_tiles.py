"""Tokens of a step, grouped by adapter."""

from __future__ import annotations

import random

import numpy as np
import pytest

from formgate.engine.scheduling.adapter_tiles import write_adapters
from formgate.engine.step import (
    StepLayout,
    adapter_tile_rows,
    most_adapter_tiles,
    num_adapter_tiles,
)


def parts(ints, order: int, tokens: int, tiles: int, num_tiles: int):
    return ints[order : order + tokens], ints[tiles : tiles + 3 * num_tiles].reshape(-1, 3)


def assert_covers(order, tiles, slots: list[int]) -> None:
    """Every token with an adapter is in one tile, with tokens of the same adapter."""
    found: dict[int, int] = {}
    for slot, first, count in tiles.tolist():
        if slot < 0:
            continue
        assert 0 < count <= adapter_tile_rows(len(order))
        for token in order[first : first + count].tolist():
            assert token not in found
            found[token] = slot
    assert found == {token: slot for token, slot in enumerate(slots) if slot >= 0}


@pytest.mark.parametrize("seed", range(30))
def test_any_batch(seed: int) -> None:
    rng = random.Random(seed)
    num_slots = rng.choice([1, 2, 5, 64])
    rows = rng.randint(1, 80)
    slots = [rng.randrange(-1, num_slots) for _ in range(rows)]
    counts = [rng.choice([1, 1, 1, rng.randint(1, 40)]) for _ in range(rows)]
    reads = [rng.randint(0, 1) for _ in range(rows)]
    tokens, padding = sum(counts), rng.choice([0, 7])
    layout = StepLayout(
        tokens + padding,
        rows,
        max(sum(reads), 1),
        num_adapter_tiles(tokens + padding, num_slots),
        num_adapter_tiles(max(sum(reads), 1), num_slots),
    )
    ints = np.full(layout.block_tables + 4, 99, np.int32)
    write_adapters(ints, layout, slots, counts, reads)
    every = parts(
        ints, layout.adapter_order, layout.num_tokens, layout.adapter_tiles, layout.num_tiles
    )
    assert_covers(*every, np.repeat(slots, counts).tolist())
    read = parts(
        ints,
        layout.read_adapter_order,
        layout.num_logits,
        layout.read_adapter_tiles,
        layout.num_read_tiles,
    )
    assert_covers(*read, np.repeat(slots, reads).tolist())
    assert (ints[: layout.adapter_order] == 99).all()
    assert (ints[layout.block_tables :] == 99).all()
    for offset in (layout.adapter_order, layout.adapter_tiles, layout.read_adapter_order):
        assert offset % 4 == 0  # 16 bytes


def test_a_step_without_adapters_has_no_parts() -> None:
    layout = StepLayout(5, 2, 2)
    assert layout.block_tables == layout.adapter_order
    ints = np.full(layout.block_tables, 99, np.int32)
    write_adapters(ints, layout, [-1, -1], [3, 2], [1, 1])
    assert (ints == 99).all()


@pytest.mark.parametrize("slots", [1, 4, 64])
def test_room_for_any_smaller_batch(slots: int) -> None:
    for largest in (1, 16, 255, 256, 257, 300, 9000):
        most = most_adapter_tiles(largest, slots)
        assert all(num_adapter_tiles(n, slots) <= most for n in range(1, largest + 1))
