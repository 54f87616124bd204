"""Turns the scheduled sequences into the tensors of one forward pass. A hot loop: numpy over
buffers that live as long as the engine, and one copy to the device however many rows there are.
"""

from __future__ import annotations

from collections.abc import Sequence as ReadSequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from formgate.engine.batch import ForwardBatch
from formgate.engine.sequence import Sequence

NO_BLOCKS: list[int] = []
NUM_HOST_BUFFERS = 2  # one is filled while the device may still read the other


@dataclass(frozen=True, slots=True, order=True)
class BatchShape:
    """How large a batch's tensors are: one graph serves every batch that fits into its shape."""

    num_tokens: int
    num_rows: int
    max_query_len: int

    def holds(self, num_tokens: int, num_rows: int, max_query_len: int) -> bool:
        return (
            num_tokens <= self.num_tokens
            and num_rows <= self.num_rows
            and max_query_len <= self.max_query_len
        )


@dataclass(frozen=True, slots=True)
class StepBatch:
    forward: ForwardBatch
    shape: BatchShape | None  # the static shape that it is padded to; None: it is as it came
    rows: list[Sequence]  # those that get a row of logits, in order
    has_pending: bool


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the parts of a buffer begin, each at a multiple of 16 bytes: a kernel is compiled anew
    for a pointer that is not.
    """

    num_tokens: int
    num_rows: int
    num_logits: int

    @property
    def tokens(self) -> int:
        """Of a part with a number for each token."""
        return -(-self.num_tokens // 2) * 2

    @property
    def longs(self) -> int:
        """Of the first part of int64, here the integers of 32 bits begin."""
        return 3 * self.tokens + -(-self.num_logits // 2) * 2

    @property
    def contexts(self) -> int:
        return -(-(self.num_rows + 1) // 4) * 4

    @property
    def read_start(self) -> int:
        return self.contexts + -(-self.num_rows // 4) * 4

    @property
    def tables(self) -> int:
        return self.read_start + self.contexts


@dataclass(frozen=True, slots=True)
class _HostViews:
    """Parts of a host buffer; the same places as the device's tensors of that shape."""

    input_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    slot_mapping: NDArray[np.int64]
    logits_indices: NDArray[np.int64]
    query_start: NDArray[np.int32]
    context_lens: NDArray[np.int32]
    read_start: NDArray[np.int32]
    tables: NDArray[np.int32]  # flat, all that is left


class BatchBuilder:
    """Two kinds of batches: those that fit into one of `shapes` are padded to it, and their
    tensors are always the same ones; any other has the size it needs.

    The tensors are valid until the next `build` (on CUDA: in the order of the stream). Padding rows
    have no query token, and padding tokens write no keys and values.
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
        self.block_size = block_size
        self.device = device
        self.shapes = tuple(sorted(shapes))  # so that the first that fits is the smallest
        self._max_context_len = max_blocks_per_seq * block_size
        max_num_tokens = max([max_num_tokens, *(shape.num_tokens for shape in shapes)])
        largest = _Layout(max_num_tokens, max_num_seqs, max_num_seqs)
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
        self._static_batches = {shape: self._static_batch(shape) for shape in self.shapes}
        # Row i mirrors the first `_mirrored[i]` entries of the list `_tables[i]`. A sequence keeps
        # its list while it runs, so most rows need nothing or one more entry.
        self._mirror: NDArray[np.int32] = np.zeros((max_num_seqs, max_blocks_per_seq), np.int32)
        self._tables = [NO_BLOCKS] * max_num_seqs
        self._mirrored = [0] * max_num_seqs

    def static_batch(self, shape: BatchShape) -> ForwardBatch:
        """The tensors that every batch of a shape has."""
        return self._static_batches[shape]

    def build(self, sequences: ReadSequence[Sequence], *, read_all: bool = False) -> StepBatch:
        """Each sequence brings its next `num_scheduled_tokens`; those that catch up get a row of
        logits, in order. A pending token has the id that `fill_pending` replaces. `read_all`: the
        hidden states of all tokens are wanted, not only of those with logits.
        """
        ids: list[int] = []
        counts: list[int] = []
        contexts: list[int] = []
        logits_indices: list[int] = []
        logits_rows: list[Sequence] = []
        reads: list[int] = []
        has_pending = False
        for row, sequence in enumerate(sequences):
            start, count = sequence.num_computed_tokens, sequence.num_scheduled_tokens
            if sequence.pending_row is not None:
                assert count == 1
                assert start == len(sequence.token_ids)
                has_pending = True
                ids.append(-1 - sequence.pending_row)
            elif count == 1:
                ids.append(sequence.token_ids[start])
            else:
                ids += sequence.token_ids[start : start + count]
            counts.append(count)
            contexts.append(start + count)
            catches_up = start + count == sequence.num_tokens
            if catches_up:
                logits_indices.append(len(ids) - 1)
                logits_rows.append(sequence)
            reads.append(catches_up)
            self._mirror_table(row, sequence.block_table)

        if not logits_rows:  # one token all the same: no operation meets an empty tensor
            logits_indices.append(len(ids) - 1)
            reads[-1] = 1

        rows, tokens, num_logits = len(counts), len(ids), len(logits_indices)
        max_context, max_query = max(contexts), max(counts)
        width = -(-max_context // self.block_size)
        shape = self._shape_of(tokens, rows, max_query)
        padded_tokens = shape.num_tokens if shape else tokens
        padded_rows = shape.num_rows if shape else rows
        padded_logits = shape.num_rows if shape else num_logits

        host = self._next_host_buffer()
        layout = _Layout(padded_tokens, padded_rows, padded_logits)
        views = _host_views(host.numpy(), layout)
        views.input_ids[:tokens] = ids
        views.logits_indices[:num_logits] = logits_indices
        query_start = views.query_start[: rows + 1]
        query_start[0] = 0
        np.cumsum(counts, out=query_start[1:])
        views.read_start[0] = 0
        np.cumsum(reads, out=views.read_start[1 : rows + 1])
        context_lens = views.context_lens[:rows]
        context_lens[:] = contexts
        tables = views.tables[: rows * width].reshape(rows, width)
        tables[:] = self._mirror[:rows, :width]
        positions, slots = views.positions[:tokens], views.slot_mapping[:tokens]
        if tokens == rows:
            row_of_token = np.arange(rows)
            np.subtract(context_lens, 1, out=positions)
        else:
            row_of_token = np.repeat(np.arange(rows), counts)
            # Token t of row r is at context_lens[r] - (query_start[r + 1] - t).
            offsets = (context_lens - query_start[1:])[row_of_token]
            np.add(offsets, np.arange(tokens), out=positions)
        blocks, inside = np.divmod(positions, self.block_size)
        np.multiply(tables[row_of_token, blocks], self.block_size, out=slots, dtype=np.int64)
        np.add(slots, inside, out=slots)
        if shape is not None:
            views.input_ids[tokens:] = 0
            views.positions[tokens:] = 0
            views.slot_mapping[tokens:] = -1
            views.logits_indices[num_logits:] = 0
            views.query_start[rows + 1 :] = tokens
            views.context_lens[rows:] = 0

        end = layout.tables + rows * width
        self._copy_to_device(host, layout.longs + -(-end // 2))
        all_ints = self._device_buffer[layout.longs :].view(torch.int32)
        device_tables = all_ints[layout.tables : end].view(rows, width)
        if shape is not None:
            self._static_tables[:rows, :width] = device_tables
            batch = self._static_batches[shape]
            batch.plans.clear()
        else:
            batch = self._batch(layout, device_tables, max_query=max_query, context=max_context)
            if num_logits < tokens and not read_all:
                read_start = all_ints[layout.read_start : layout.read_start + rows + 1]
                read = replace(batch, query_start=read_start, max_query_len=1, plans={})
                batch = replace(batch, read=read)
        return StepBatch(batch, shape, logits_rows, has_pending)

    def _shape_of(self, tokens: int, rows: int, max_query: int) -> BatchShape | None:
        for shape in self.shapes:
            if shape.holds(tokens, rows, max_query):
                return shape
        return None

    def _static_batch(self, shape: BatchShape) -> ForwardBatch:
        # Grids must follow from the shape, so any context has to fit.
        return self._batch(
            _Layout(shape.num_tokens, shape.num_rows, shape.num_rows),
            self._static_tables[: shape.num_rows],
            max_query=shape.max_query_len,
            context=self._max_context_len,
        )

    def _batch(
        self, layout: _Layout, tables: torch.Tensor, *, max_query: int, context: int
    ) -> ForwardBatch:
        longs, start, size = self._device_buffer, layout.tokens, layout.num_tokens
        ints = longs[layout.longs :].view(torch.int32)
        return ForwardBatch(
            input_ids=longs[:size],
            positions=longs[start : start + size],
            slot_mapping=longs[2 * start : 2 * start + size],
            logits_indices=longs[3 * start : 3 * start + layout.num_logits],
            query_start=ints[: layout.num_rows + 1],
            context_lens=ints[layout.contexts : layout.contexts + layout.num_rows],
            block_tables=tables,
            max_query_len=max_query,
            max_context_len=context,
        )

    def _mirror_table(self, row: int, table: list[int]) -> None:
        known = self._mirrored[row] if self._tables[row] is table else 0
        if known < len(table):
            self._mirror[row, known : len(table)] = table[known:]
            self._tables[row] = table
            self._mirrored[row] = len(table)

    def _next_host_buffer(self) -> torch.Tensor:
        self._turn = (self._turn + 1) % len(self._host_buffers)
        if self._copied:
            self._copied[self._turn].synchronize()  # long ago, unless many steps sampled nothing
        return self._host_buffers[self._turn]

    def _copy_to_device(self, host: torch.Tensor, size: int) -> None:
        if self._copied:
            self._device_buffer[:size].copy_(host[:size], non_blocking=True)
            self._copied[self._turn].record()


def _host_views(longs: NDArray[np.int64], layout: _Layout) -> _HostViews:
    start, size = layout.tokens, layout.num_tokens
    ints: NDArray[np.int32] = longs[layout.longs :].view(np.int32)
    return _HostViews(
        input_ids=longs[:size],
        positions=longs[start : start + size],
        slot_mapping=longs[2 * start : 2 * start + size],
        logits_indices=longs[3 * start : 3 * start + layout.num_logits],
        query_start=ints[: layout.num_rows + 1],
        context_lens=ints[layout.contexts : layout.contexts + layout.num_rows],
        read_start=ints[layout.read_start : layout.read_start + layout.num_rows + 1],
        tables=ints[layout.tables :],
    )
