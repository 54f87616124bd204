"""Packs scheduled sequences into the numbers of one step. It is on the hot path, so it reuses numpy
arrays that live as long as the engine. It knows sequences and block tables, and no device.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as ReadSequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from formgate.engine.scheduling.adapter_tiles import write_adapters
from formgate.engine.sequence import Sequence
from formgate.engine.step import (
    PENDING,
    BatchShape,
    PromptTargets,
    Step,
    StepLayout,
    num_adapter_tiles,
)

NO_BLOCKS: list[int] = []


@dataclass(slots=True)
class _Query:
    """The query tokens of a step, sequence by sequence, and the rows of logits they produce."""

    ids: list[int]
    counts: list[int]  # query tokens of each sequence
    context_lens: list[int]  # keys of each sequence, this step's included
    logits_indices: list[int]
    num_reads: list[int]  # rows of logits of each sequence
    slots: list[int]  # of each sequence's adapter; -1: it has none
    has_pending: bool = False

    @property
    def has_adapters(self) -> bool:
        return any(slot >= 0 for slot in self.slots)


class StepPacker:
    """Pads a batch to the smallest of `shapes` that holds it. Padding rows have no query token, and
    padding tokens write no keys and values (slot -1).
    """

    def __init__(
        self,
        *,
        max_num_seqs: int,
        max_blocks_per_seq: int,
        block_size: int,
        shapes: ReadSequence[BatchShape] = (),
        adapter_slots: int = 0,
    ) -> None:
        self.block_size = block_size
        self._adapter_slots = adapter_slots
        self.shapes = tuple(sorted(shapes))  # the first that fits is the smallest
        # Row i mirrors the first `_mirrored[i]` entries of the list `_tables[i]`. Such a list only
        # grows, so most rows need no new entry or one.
        self._mirror: NDArray[np.int32] = np.zeros((max_num_seqs, max_blocks_per_seq), np.int32)
        self._tables = [NO_BLOCKS] * max_num_seqs
        self._mirrored = [0] * max_num_seqs

    def pack(self, sequences: ReadSequence[Sequence], numbers: NDArray[np.int64]) -> Step:
        """The step that computes the next `num_scheduled_tokens` of each sequence and gives each
        `num_read_rows` rows of logits, in order. The step owns `numbers`, which is overwritten.
        """
        query = self._query(sequences)
        num_logits = sum(query.num_reads)
        if not num_logits:  # compute one row anyway, so that no operation gets an empty tensor
            query.logits_indices.append(len(query.ids) - 1)
            query.num_reads[-1] = 1
        tokens, rows = len(query.ids), len(query.counts)
        max_query, max_context = max(query.counts), max(query.context_lens)
        shape = self._shape_of(tokens, rows, max_query, adapters=query.has_adapters)
        layout = self._layout(query, shape)
        width = -(-max_context // self.block_size)
        self._write(query, numbers, layout, width)
        return Step(
            numbers=numbers,
            layout=layout,
            shape=shape,
            num_rows=rows,
            num_logits=num_logits,
            table_width=width,
            max_query_len=max_query,
            max_context_len=max_context,
            max_read_rows=max(query.num_reads),
            has_pending=query.has_pending,
            prompt_targets=tuple(_prompt_targets(sequences)),
        )

    def _query(self, sequences: ReadSequence[Sequence]) -> _Query:
        query = _Query([], [], [], [], [], [])
        ids = query.ids
        for row, sequence in enumerate(sequences):
            start, count = sequence.num_computed_tokens, sequence.num_scheduled_tokens
            if sequence.pending_rows:
                assert count == len(sequence.pending_rows) == 1
                assert start == len(sequence.token_ids)
                query.has_pending = True
                ids.append(PENDING - sequence.pending_rows[0])
            elif count == 1:
                ids.append(sequence.token_ids[start])
            else:
                ids += sequence.token_ids[start : start + count]
            query.counts.append(count)
            query.context_lens.append(start + count)
            num_read = sequence.num_read_rows
            query.logits_indices += range(len(ids) - num_read, len(ids))
            query.num_reads.append(num_read)
            query.slots.append(sequence.adapter_slot)
            self._mirror_table(row, sequence.block_table)
        return query

    def _layout(self, query: _Query, shape: BatchShape | None) -> StepLayout:
        if shape is not None:
            slots = self._adapter_slots if shape.adapters else 0
            tiles = num_adapter_tiles(shape.num_tokens, slots)
            return StepLayout(shape.num_tokens, shape.num_rows, shape.num_rows, tiles)
        tokens, reads = len(query.ids), len(query.logits_indices)
        if not query.has_adapters:
            return StepLayout(tokens, len(query.counts), reads)
        tiles, read_tiles = (num_adapter_tiles(n, self._adapter_slots) for n in (tokens, reads))
        return StepLayout(tokens, len(query.counts), reads, tiles, read_tiles)

    def _write(
        self, query: _Query, numbers: NDArray[np.int64], layout: StepLayout, width: int
    ) -> None:
        tokens, rows = len(query.ids), len(query.counts)
        stride, size, num_logits = layout.token_stride, layout.num_tokens, len(query.logits_indices)
        ints: NDArray[np.int32] = numbers[layout.int32_start :].view(np.int32)
        input_ids = numbers[:size]
        positions = numbers[stride : stride + size]
        slot_mapping = numbers[2 * stride : 2 * stride + size]
        logits_indices = numbers[3 * stride : 3 * stride + layout.num_logits]
        query_start = ints[: layout.num_rows + 1]
        context_lens = ints[layout.context_lens : layout.context_lens + layout.num_rows]
        read_start = ints[layout.read_start : layout.read_start + rows + 1]
        tables = ints[layout.block_tables : layout.block_tables + rows * width]
        tables = tables.reshape(rows, width)

        input_ids[:tokens] = query.ids
        logits_indices[:num_logits] = query.logits_indices
        query_start[0] = 0
        np.cumsum(query.counts, out=query_start[1 : rows + 1])
        read_start[0] = 0
        np.cumsum(query.num_reads, out=read_start[1:])
        context_lens[:rows] = query.context_lens
        tables[:] = self._mirror[:rows, :width]
        self._write_positions_and_slots(
            query.counts,
            query_start[: rows + 1],
            context_lens[:rows],
            tables,
            positions[:tokens],
            slot_mapping[:tokens],
        )
        write_adapters(ints, layout, query.slots, query.counts, query.num_reads)
        # Padding; empty slices if the batch has no shape.
        input_ids[tokens:] = 0
        positions[tokens:] = 0
        slot_mapping[tokens:] = -1
        logits_indices[num_logits:] = 0
        query_start[rows + 1 :] = tokens
        context_lens[rows:] = 0

    def _write_positions_and_slots(
        self,
        counts: list[int],
        query_start: NDArray[np.int32],
        context_lens: NDArray[np.int32],
        tables: NDArray[np.int32],
        positions: NDArray[np.int64],
        slots: NDArray[np.int64],
    ) -> None:
        """Write each token's position, and the slot of its key and value."""
        rows, tokens = len(counts), len(positions)
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

    def _shape_of(
        self, tokens: int, rows: int, max_query: int, *, adapters: bool
    ) -> BatchShape | None:
        for shape in self.shapes:
            if shape.holds(tokens, rows, max_query, adapters=adapters):
                return shape
        return None

    def _mirror_table(self, row: int, table: list[int]) -> None:
        known = self._mirrored[row] if self._tables[row] is table else 0
        if known < len(table):
            self._mirror[row, known : len(table)] = table[known:]
            self._tables[row] = table
            self._mirrored[row] = len(table)


def _prompt_targets(sequences: ReadSequence[Sequence]) -> Iterator[PromptTargets]:
    first_row = 0
    for place, sequence in enumerate(sequences):
        num_top = sequence.params.prompt_logprobs
        if num_top is not None and sequence.wants_prompt_logprobs:
            start = sequence.num_computed_tokens + 1
            end = min(start + sequence.num_scheduled_tokens, sequence.num_prompt_tokens)
            if start < end:
                targets = sequence.token_ids[start:end]
                yield PromptTargets(place, first_row, start, targets, num_top)
        first_row += sequence.num_scheduled_tokens
