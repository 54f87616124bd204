"""Turns the numbers of a step into the tensors of a forward pass, with one copy to the device. It
knows tensors, and no sequence.
"""

from __future__ import annotations

from collections.abc import Sequence as ReadSequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from formgate.engine.attention.metadata import AttentionMetadata
from formgate.engine.models.forward_batch import AdapterRows, ForwardBatch
from formgate.engine.step import (
    BatchShape,
    Step,
    StepLayout,
    adapter_tile_rows,
    most_adapter_tiles,
    num_adapter_tiles,
)

NUM_HOST_BUFFERS = 2  # one is filled while the device may still read the other


class BatchBuilder:
    """Batches of the same static shape share their tensors. Any other batch gets tensors of its own
    size. Both are valid until the next `build` (on CUDA: in stream order).
    """

    def __init__(
        self,
        *,
        max_num_seqs: int,
        max_num_tokens: int,
        max_blocks_per_seq: int,
        block_size: int,
        device: torch.device,
        shapes: ReadSequence[BatchShape] = (),
        adapter_slots: int = 0,
    ) -> None:
        self._adapter_slots = adapter_slots
        self._max_context_len = max_blocks_per_seq * block_size
        max_num_tokens = max([max_num_tokens, *(shape.num_tokens for shape in shapes)])
        largest = StepLayout(
            max_num_tokens,
            max_num_seqs,
            max_num_seqs,
            most_adapter_tiles(max_num_tokens, adapter_slots),
            most_adapter_tiles(max_num_seqs, adapter_slots),
        )
        size = largest.int32_start + -(
            -(largest.block_tables + max_num_seqs * max_blocks_per_seq) // 2
        )
        on_cuda = device.type == "cuda"
        self._device_buffer = torch.zeros(size, dtype=torch.int64, device=device)
        self._host_buffers = (
            [torch.zeros(size, dtype=torch.int64, pin_memory=True) for _ in range(NUM_HOST_BUFFERS)]
            if on_cuda
            else [self._device_buffer]
        )
        self._copied: list[torch.cuda.Event] = (
            [torch.cuda.Event() for _ in self._host_buffers]  # type: ignore[no-untyped-call]
            if on_cuda
            else []
        )
        self._turn = 0
        # Block tables of static shapes, as wide as any table can become: a graph fixes the width.
        table_rows = max((shape.num_rows for shape in shapes), default=0)
        self._static_tables = torch.zeros(
            (table_rows, max_blocks_per_seq), dtype=torch.int32, device=device
        )
        self._static_batches = {shape: self._static_batch(shape) for shape in shapes}

    @property
    def max_numbers(self) -> int:
        """Length of the arrays of `next_numbers`."""
        return self._device_buffer.numel()

    def static_batch(self, shape: BatchShape) -> ForwardBatch:
        """The tensors that all batches of a static shape share."""
        return self._static_batches[shape]

    def next_numbers(self) -> NDArray[np.int64]:
        """The array to pack the next step into. Waits until the device has read its last use."""
        self._turn = (self._turn + 1) % len(self._host_buffers)
        if self._copied:
            self._copied[self._turn].synchronize()  # done already, unless steps sampled nothing
        numbers: NDArray[np.int64] = self._host_buffers[self._turn].numpy()
        return numbers

    def build(self, step: Step) -> ForwardBatch:
        """The tensors of `step`, which is packed into the last array of `next_numbers`. The ids of
        pending tokens are negative until `fill_pending` replaces them.
        """
        self._copy_to_device(step.num_numbers)
        layout, rows = step.layout, step.num_rows
        ints = self._device_buffer[layout.int32_start :].view(torch.int32)
        tables = ints[layout.block_tables : layout.block_tables + rows * step.table_width]
        tables = tables.view(rows, step.table_width)
        if step.shape is not None:
            self._static_tables[:rows, : step.table_width] = tables
            batch = self._static_batches[step.shape]
            batch.attention.plans.clear()
            return batch
        batch = self._batch(layout, tables, step.max_query_len, step.max_context_len)
        # Prompt logprobs read the hidden states of all tokens.
        if layout.num_logits == layout.num_tokens or step.prompt_targets:
            return batch
        read_start = ints[layout.read_start : layout.read_start + rows + 1]
        read = replace(
            batch.attention, query_start=read_start, max_query_len=step.max_read_rows, plans={}
        )
        read_adapters = _adapter_rows(
            ints,
            layout.read_adapter_order,
            layout.num_logits,
            layout.read_adapter_tiles,
            layout.num_read_tiles,
        )
        return replace(batch, read=read, read_adapters=read_adapters)

    def _static_batch(self, shape: BatchShape) -> ForwardBatch:
        # A graph fixes its kernels' grids, so they must cover the longest context.
        slots = self._adapter_slots if shape.adapters else 0
        tiles = num_adapter_tiles(shape.num_tokens, slots)
        return self._batch(
            StepLayout(shape.num_tokens, shape.num_rows, shape.num_rows, tiles),
            self._static_tables[: shape.num_rows],
            shape.max_query_len,
            self._max_context_len,
        )

    def _batch(
        self, layout: StepLayout, tables: torch.Tensor, max_query_len: int, max_context_len: int
    ) -> ForwardBatch:
        longs, stride, size = self._device_buffer, layout.token_stride, layout.num_tokens
        ints = longs[layout.int32_start :].view(torch.int32)
        return ForwardBatch(
            input_ids=longs[:size],
            positions=longs[stride : stride + size],
            logits_indices=longs[3 * stride : 3 * stride + layout.num_logits],
            attention=AttentionMetadata(
                slot_mapping=longs[2 * stride : 2 * stride + size],
                block_tables=tables,
                query_start=ints[: layout.num_rows + 1],
                context_lens=ints[layout.context_lens : layout.context_lens + layout.num_rows],
                max_query_len=max_query_len,
                max_context_len=max_context_len,
            ),
            adapters=_adapter_rows(
                ints, layout.adapter_order, size, layout.adapter_tiles, layout.num_tiles
            ),
        )

    def _copy_to_device(self, size: int) -> None:
        if self._copied:
            host = self._host_buffers[self._turn]
            self._device_buffer[:size].copy_(host[:size], non_blocking=True)
            self._copied[self._turn].record()


def _adapter_rows(
    ints: torch.Tensor, order: int, num_tokens: int, tiles: int, num_tiles: int
) -> AdapterRows | None:
    """The parts of adapters at two offsets; None if the layout has none."""
    if not num_tiles:
        return None
    return AdapterRows(
        order=ints[order : order + num_tokens],
        tiles=ints[tiles : tiles + 3 * num_tiles].view(num_tiles, 3),
        tile_rows=adapter_tile_rows(num_tokens),
    )
