"""What one step computes, as plain numbers: sizes, and one packed array that holds every integer
that the forward pass reads. It names no sequence and no tensor of the device, so that any rank can
be handed it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# An input id of `PENDING - r` stands for the token that was sampled in row `r` of the last step.
PENDING = -1
# Query tokens of a short query: a run of forced tokens, or what a prefix hit leaves of a prompt.
# Weights are still what a step with such rows waits for, and attention splits a long context.
SHORT_QUERY = 16


@dataclass(frozen=True, slots=True, order=True)
class BatchShape:
    """Sizes of a padded batch. One CUDA graph serves every batch that fits into its shape."""

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
class StepLayout:
    """Offsets of the parts of a packed array. Each part begins at a multiple of 16 bytes: Triton
    compiles a kernel anew for a pointer that is not aligned.
    """

    num_tokens: int
    num_rows: int
    num_logits: int

    @property
    def tokens(self) -> int:
        """Length of an int64 part with one number a token."""
        return -(-self.num_tokens // 2) * 2

    @property
    def longs(self) -> int:
        """Length of the int64 section; the int32 section starts at this offset."""
        return 3 * self.tokens + -(-self.num_logits // 2) * 2

    @property
    def contexts(self) -> int:
        """Offset of `context_lens` in the int32 section; so are the two below."""
        return -(-(self.num_rows + 1) // 4) * 4

    @property
    def read_start(self) -> int:
        return self.contexts + -(-self.num_rows // 4) * 4

    @property
    def tables(self) -> int:
        return self.read_start + self.contexts


@dataclass(frozen=True, slots=True)
class PromptTargets:
    """Prompt tokens whose logprobs are wanted. Query token `first_row + i` of the step predicts
    `token_ids[i]`, token `first_target + i` of the prompt.
    """

    sequence: int  # its place in the step
    first_row: int
    first_target: int
    token_ids: list[int]
    num_top: int


@dataclass(frozen=True, slots=True)
class Step:
    """The input of one forward pass.

    `numbers` holds, by `layout`: input_ids, positions, slot_mapping (int64 [num_tokens] each),
    logits_indices (int64 [num_logits]), query_start (int32 [num_rows + 1]), context_lens (int32
    [num_rows]), read_start (int32 [num_rows + 1]) and the block tables (int32 [rows, table_width]).
    With a `shape`, the parts are padded to it.
    """

    numbers: NDArray[np.int64]
    layout: StepLayout
    shape: BatchShape | None  # None: the batch has the size that it needs
    num_rows: int  # that hold a sequence
    num_logits: int  # rows of logits that are read; at least one is computed
    table_width: int
    max_query_len: int
    max_context_len: int
    max_read_rows: int  # rows of logits of the sequence that has most
    has_pending: bool
    prompt_targets: tuple[PromptTargets, ...] = ()

    @property
    def num_numbers(self) -> int:
        """How much of `numbers` is used."""
        end = self.layout.tables + self.num_rows * self.table_width
        return self.layout.longs + -(-end // 2)
