"""Groups the tokens of a step by their adapters, as the kernels take them: tiles of one adapter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from formgate.engine.step import StepLayout, adapter_tile_rows

UNUSED = (-1, 0, 0)


def write_adapters(
    ints: NDArray[np.int32],
    layout: StepLayout,
    slots: list[int],
    counts: list[int],
    num_reads: list[int],
) -> None:
    """Write the layout's parts of adapters, if it has any. `slots`, `counts` and `num_reads` are
    those of each sequence: its adapter's slot or -1, its query tokens, its rows of logits.
    """
    if layout.num_tiles:
        order, tiles = layout.adapter_order, layout.adapter_tiles
        _write_tiles(
            np.repeat(np.asarray(slots, np.int32), counts),
            ints[order : order + layout.num_tokens],
            ints[tiles : tiles + 3 * layout.num_tiles].reshape(-1, 3),
        )
    if layout.num_read_tiles:
        order, tiles = layout.read_adapter_order, layout.read_adapter_tiles
        _write_tiles(
            np.repeat(np.asarray(slots, np.int32), num_reads),
            ints[order : order + layout.num_logits],
            ints[tiles : tiles + 3 * layout.num_read_tiles].reshape(-1, 3),
        )


def _write_tiles(
    slots: NDArray[np.int32], order: NDArray[np.int32], tiles: NDArray[np.int32]
) -> None:
    """`slots`: of each token, without padding; `order` is as long as the padded batch."""
    tile_rows = adapter_tile_rows(len(order))
    covered = np.flatnonzero(slots >= 0)
    by_slot = covered[np.argsort(slots[covered], kind="stable")]
    order[: len(by_slot)] = by_slot
    order[len(by_slot) :] = 0
    found, starts, counts = np.unique(slots[by_slot], return_index=True, return_counts=True)
    filled = [
        (slot, start + at, min(tile_rows, count - at))
        for slot, start, count in zip(found.tolist(), starts.tolist(), counts.tolist(), strict=True)
        for at in range(0, count, tile_rows)
    ]
    tiles[: len(filled)] = np.asarray(filled, np.int32).reshape(-1, 3)
    tiles[len(filled) :] = UNUSED
