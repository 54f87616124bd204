"""Turns scheduled sequences into the numbers of one step. A hot loop: numpy over arrays that live
as long as the engine. It knows sequences and block tables, and no device.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as ReadSequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from formgate.engine.sequence import Sequence
from formgate.engine.step import PENDING, BatchShape, PromptTargets, Step, StepLayout

NO_BLOCKS: list[int] = []


@dataclass(slots=True)
class _Query:
    """The query tokens of a step, sequence by sequence, and what is read of them."""

    ids: list[int]
    counts: list[int]  # query tokens of each sequence
    contexts: list[int]  # keys of each sequence, this step's included
    logits_indices: list[int]
    reads: list[int]  # rows of logits of each sequence
    has_pending: bool = False


class StepPacker:
    """A batch that fits into one of `shapes` is padded to the smallest such shape. Padding rows
    have no query token, and padding tokens write no keys and values (slot -1).
    """

    def __init__(
        self,
        *,
        max_num_seqs: int,
        max_blocks_per_seq: int,
        block_size: int,
        shapes: ReadSequence[BatchShape] = (),
    ) -> None:
        self.block_size = block_size
        self.shapes = tuple(sorted(shapes))  # the first that fits is the smallest
        # Row i mirrors the first `_mirrored[i]` entries of the list `_tables[i]`. A sequence keeps
        # its list while the list only grows, so most rows need nothing or one more entry.
        self._mirror: NDArray[np.int32] = np.zeros((max_num_seqs, max_blocks_per_seq), np.int32)
        self._tables = [NO_BLOCKS] * max_num_seqs
        self._mirrored = [0] * max_num_seqs

    def pack(self, sequences: ReadSequence[Sequence], numbers: NDArray[np.int64]) -> Step:
        """Each sequence brings its next `num_scheduled_tokens` and gets `num_read_rows` rows of
        logits, in order. `numbers` is overwritten and is the step's from then on.
        """
        query = self._query(sequences)
        num_logits = sum(query.reads)
        if not num_logits:  # one token all the same: no operation meets an empty tensor
            query.logits_indices.append(len(query.ids) - 1)
            query.reads[-1] = 1
        tokens, rows = len(query.ids), len(query.counts)
        max_query, max_context = max(query.counts), max(query.contexts)
        shape = self._shape_of(tokens, rows, max_query)
        layout = (
            StepLayout(shape.num_tokens, shape.num_rows, shape.num_rows)
            if shape
            else StepLayout(tokens, rows, len(query.logits_indices))
        )
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
            max_read_rows=max(query.reads),
            has_pending=query.has_pending,
            prompt_targets=tuple(_prompt_targets(sequences)),
        )

    def _query(self, sequences: ReadSequence[Sequence]) -> _Query:
        query = _Query([], [], [], [], [])
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
            query.contexts.append(start + count)
            num_read = sequence.num_read_rows
            query.logits_indices += range(len(ids) - num_read, len(ids))
            query.reads.append(num_read)
            self._mirror_table(row, sequence.block_table)
        return query

    def _write(
        self, query: _Query, numbers: NDArray[np.int64], layout: StepLayout, width: int
    ) -> None:
        tokens, rows = len(query.ids), len(query.counts)
        start, size, num_logits = layout.tokens, layout.num_tokens, len(query.logits_indices)
        ints: NDArray[np.int32] = numbers[layout.longs :].view(np.int32)
        input_ids = numbers[:size]
        positions = numbers[start : start + size]
        slot_mapping = numbers[2 * start : 2 * start + size]
        logits_indices = numbers[3 * start : 3 * start + layout.num_logits]
        query_start = ints[: layout.num_rows + 1]
        context_lens = ints[layout.contexts : layout.contexts + layout.num_rows]
        read_start = ints[layout.read_start : layout.read_start + rows + 1]
        tables = ints[layout.tables : layout.tables + rows * width].reshape(rows, width)

        input_ids[:tokens] = query.ids
        logits_indices[:num_logits] = query.logits_indices
        query_start[0] = 0
        np.cumsum(query.counts, out=query_start[1 : rows + 1])
        read_start[0] = 0
        np.cumsum(query.reads, out=read_start[1:])
        context_lens[:rows] = query.contexts
        tables[:] = self._mirror[:rows, :width]
        self._write_places(
            query.counts,
            query_start[: rows + 1],
            context_lens[:rows],
            tables,
            positions[:tokens],
            slot_mapping[:tokens],
        )
        # Padding; nothing where there is no shape.
        input_ids[tokens:] = 0
        positions[tokens:] = 0
        slot_mapping[tokens:] = -1
        logits_indices[num_logits:] = 0
        query_start[rows + 1 :] = tokens
        context_lens[rows:] = 0

    def _write_places(
        self,
        counts: list[int],
        query_start: NDArray[np.int32],
        context_lens: NDArray[np.int32],
        tables: NDArray[np.int32],
        positions: NDArray[np.int64],
        slots: NDArray[np.int64],
    ) -> None:
        """Of each token: its position, and the slot of its key and value."""
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

    def _shape_of(self, tokens: int, rows: int, max_query: int) -> BatchShape | None:
        for shape in self.shapes:
            if shape.holds(tokens, rows, max_query):
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
