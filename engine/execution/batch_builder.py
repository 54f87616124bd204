"""Turns the numbers of a step into the tensors of a forward pass: one copy to the device, however
many rows there are. It knows tensors, and no sequence.
"""

from __future__ import annotations

from collections.abc import Sequence as ReadSequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from formgate.engine.attention.metadata import AttentionMetadata
from formgate.engine.models.forward_batch import ForwardBatch
from formgate.engine.step import BatchShape, Step, StepLayout

NUM_HOST_BUFFERS = 2  # one is filled while the device may still read the other


class BatchBuilder:
    """The tensors of a batch with a shape are always the same ones; those of any other batch have
    the size that it needs. Both are valid until the next `build` (on CUDA: in the order of the
    stream).
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
    ) -> None:
        self._max_context_len = max_blocks_per_seq * block_size
        max_num_tokens = max([max_num_tokens, *(shape.num_tokens for shape in shapes)])
        largest = StepLayout(max_num_tokens, max_num_seqs, max_num_seqs)
        size = largest.longs + -(-(largest.tables + max_num_seqs * max_blocks_per_seq) // 2)
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
        # The tables of static shapes: rows as wide as a table can become, as a graph needs them.
        table_rows = max((shape.num_rows for shape in shapes), default=0)
        self._static_tables = torch.zeros(
            (table_rows, max_blocks_per_seq), dtype=torch.int32, device=device
        )
        self._static_batches = {shape: self._static_batch(shape) for shape in shapes}

    def static_batch(self, shape: BatchShape) -> ForwardBatch:
        """The tensors of every batch of a shape."""
        return self._static_batches[shape]

    def next_numbers(self) -> NDArray[np.int64]:
        """The array that the next step is packed into. Waits while the device may read it."""
        self._turn = (self._turn + 1) % len(self._host_buffers)
        if self._copied:
            self._copied[self._turn].synchronize()  # long ago, unless many steps sampled nothing
        numbers: NDArray[np.int64] = self._host_buffers[self._turn].numpy()
        return numbers

    def build(self, step: Step) -> ForwardBatch:
        """`step` is packed into what `next_numbers` gave last. A pending token has an id below 0,
        which `fill_pending` replaces.
        """
        self._copy_to_device(step.num_numbers)
        layout, rows = step.layout, step.num_rows
        ints = self._device_buffer[layout.longs :].view(torch.int32)
        tables = ints[layout.tables : layout.tables + rows * step.table_width]
        tables = tables.view(rows, step.table_width)
        if step.shape is not None:
            self._static_tables[:rows, : step.table_width] = tables
            batch = self._static_batches[step.shape]
            batch.attention.plans.clear()
            return batch
        batch = self._batch(layout, tables, step.max_query_len, step.max_context_len)
        # Logprobs of a prompt read the hidden states of all its tokens.
        if layout.num_logits == layout.num_tokens or step.prompt_targets:
            return batch
        read_start = ints[layout.read_start : layout.read_start + rows + 1]
        read = replace(
            batch.attention, query_start=read_start, max_query_len=step.max_read_rows, plans={}
        )
        return replace(batch, read=read)

    def _static_batch(self, shape: BatchShape) -> ForwardBatch:
        # Grids must follow from the shape, so any context has to fit.
        return self._batch(
            StepLayout(shape.num_tokens, shape.num_rows, shape.num_rows),
            self._static_tables[: shape.num_rows],
            shape.max_query_len,
            self._max_context_len,
        )

    def _batch(
        self, layout: StepLayout, tables: torch.Tensor, max_query_len: int, max_context_len: int
    ) -> ForwardBatch:
        longs, start, size = self._device_buffer, layout.tokens, layout.num_tokens
        ints = longs[layout.longs :].view(torch.int32)
        return ForwardBatch(
            input_ids=longs[:size],
            positions=longs[start : start + size],
            logits_indices=longs[3 * start : 3 * start + layout.num_logits],
            attention=AttentionMetadata(
                slot_mapping=longs[2 * start : 2 * start + size],
                block_tables=tables,
                query_start=ints[: layout.num_rows + 1],
                context_lens=ints[layout.contexts : layout.contexts + layout.num_rows],
                max_query_len=max_query_len,
                max_context_len=max_context_len,
            ),
        )

    def _copy_to_device(self, size: int) -> None:
        if self._copied:
            host = self._host_buffers[self._turn]
            self._device_buffer[:size].copy_(host[:size], non_blocking=True)
            self._copied[self._turn].record()
