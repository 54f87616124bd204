"""Turns the scheduled sequences into the tensors of one forward pass. A hot loop: numpy over
buffers that live as long as the engine, and two copies to the device however many rows there are.
"""

from __future__ import annotations

from collections.abc import Sequence as ReadSequence

import numpy as np
import torch
from numpy.typing import NDArray

from formgate.engine.batch import ForwardBatch
from formgate.engine.sequence import Sequence

NO_BLOCKS: list[int] = []


class BatchBuilder:
    """The tensors of a batch live in the builder's buffers: on the CPU they are valid until the
    next `build`; on CUDA they are copies, and the step that uses them must have read the buffers
    (it samples, and waits for the result) before the next `build`.
    """

    def __init__(
        self,
        *,
        max_num_seqs: int,
        max_num_tokens: int,
        max_blocks_per_seq: int,
        block_size: int,
        device: torch.device,
    ) -> None:
        self.block_size = block_size
        self.device = device
        pinned = device.type == "cuda"
        # input_ids, positions, slot_mapping, then logits_indices.
        self._longs = torch.zeros(
            3 * max_num_tokens + max_num_seqs, dtype=torch.int64, pin_memory=pinned
        )
        # query_start, context_lens, then block_tables.
        self._ints = torch.zeros(
            2 * max_num_seqs + 1 + max_num_seqs * max_blocks_per_seq,
            dtype=torch.int32,
            pin_memory=pinned,
        )
        self._longs_np: NDArray[np.int64] = self._longs.numpy()
        self._ints_np: NDArray[np.int32] = self._ints.numpy()
        # Row i mirrors the first `_mirrored[i]` entries of the list `_tables[i]`. A sequence keeps
        # its list while it runs, so most rows need nothing or one more entry.
        self._mirror: NDArray[np.int32] = np.zeros((max_num_seqs, max_blocks_per_seq), np.int32)
        self._tables = [NO_BLOCKS] * max_num_seqs
        self._mirrored = [0] * max_num_seqs

    def build(self, sequences: ReadSequence[Sequence]) -> ForwardBatch:
        """Each sequence brings its next `num_scheduled_tokens`; those that catch up get a row of
        logits, in order.
        """
        ids: list[int] = []
        counts: list[int] = []
        contexts: list[int] = []
        logits_indices: list[int] = []
        for row, sequence in enumerate(sequences):
            start, count = sequence.num_computed_tokens, sequence.num_scheduled_tokens
            if count == 1:
                ids.append(sequence.token_ids[start])
            else:
                ids += sequence.token_ids[start : start + count]
            counts.append(count)
            contexts.append(start + count)
            if start + count == len(sequence.token_ids):
                logits_indices.append(len(ids) - 1)
            self._mirror_table(row, sequence.block_table)

        rows, tokens, num_logits = len(counts), len(ids), len(logits_indices)
        max_context = max(contexts)
        width = -(-max_context // self.block_size)

        ints = self._ints_np
        ints[0] = 0
        query_start = ints[: rows + 1]
        context_lens = ints[rows + 1 : 2 * rows + 1]
        tables = ints[2 * rows + 1 : 2 * rows + 1 + rows * width].reshape(rows, width)
        np.cumsum(counts, out=query_start[1:])
        context_lens[:] = contexts
        tables[:] = self._mirror[:rows, :width]

        longs = self._longs_np
        longs[:tokens] = ids
        positions = longs[tokens : 2 * tokens]
        slots = longs[2 * tokens : 3 * tokens]
        longs[3 * tokens : 3 * tokens + num_logits] = logits_indices
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

        all_longs = self._to_device(self._longs[: 3 * tokens + num_logits])
        all_ints = self._to_device(self._ints[: 2 * rows + 1 + rows * width])
        return ForwardBatch(
            input_ids=all_longs[:tokens],
            positions=all_longs[tokens : 2 * tokens],
            slot_mapping=all_longs[2 * tokens : 3 * tokens],
            logits_indices=all_longs[3 * tokens :],
            query_start=all_ints[: rows + 1],
            context_lens=all_ints[rows + 1 : 2 * rows + 1],
            block_tables=all_ints[2 * rows + 1 :].view(rows, width),
            max_query_len=max(counts),
            max_context_len=max_context,
        )

    def _mirror_table(self, row: int, table: list[int]) -> None:
        known = self._mirrored[row] if self._tables[row] is table else 0
        if known < len(table):
            self._mirror[row, known : len(table)] = table[known:]
            self._tables[row] = table
            self._mirrored[row] = len(table)

    def _to_device(self, buffer: torch.Tensor) -> torch.Tensor:
        return buffer.to(self.device, non_blocking=True)
