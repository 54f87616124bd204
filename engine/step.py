"""The input of one step as plain numbers: sizes, and one packed array of all integers that the
forward pass reads. It refers to no sequence and no device tensor, so it can be sent to any rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# An input id of `PENDING - r` stands for the token sampled in row `r` of the last step.
PENDING = -1
# With more tokens than these, a tile of one adapter is larger.
FEW_TOKENS = 256
# Most query tokens of a short query: a run of forced tokens, or a prompt's rest after a prefix hit.
# A step with such rows is still bound by reading weights, and attention splits a long context.
SHORT_QUERY = 16


@dataclass(frozen=True, slots=True, order=True)
class BatchShape:
    """Sizes of a padded batch. One CUDA graph serves every batch that fits into its shape."""

    num_tokens: int  # query tokens
    num_rows: int  # sequences
    max_query_len: int
    adapters: bool = False  # its work includes the adapters of the rows

    def holds(
        self, num_tokens: int, num_rows: int, max_query_len: int, *, adapters: bool = False
    ) -> bool:
        return (
            num_tokens <= self.num_tokens
            and num_rows <= self.num_rows
            and max_query_len <= self.max_query_len
            and adapters <= self.adapters
        )


def adapter_tile_rows(num_tokens: int) -> int:
    """Most tokens of a tile of one adapter, in a batch of so many tokens, padding included."""
    return 16 if num_tokens <= FEW_TOKENS else 64


def num_adapter_tiles(num_tokens: int, num_slots: int) -> int:
    """Tiles that are enough for any `num_tokens` tokens with adapters of `num_slots` slots."""
    if not num_slots:
        return 0
    return min(num_tokens, num_tokens // adapter_tile_rows(num_tokens) + num_slots)


def most_adapter_tiles(num_tokens: int, num_slots: int) -> int:
    """The most of `num_adapter_tiles` for up to `num_tokens` tokens."""
    few = min(num_tokens, FEW_TOKENS)
    return max(num_adapter_tiles(few, num_slots), num_adapter_tiles(num_tokens, num_slots))


@dataclass(frozen=True, slots=True)
class StepLayout:
    """Offsets of the parts of a packed array: an int64 section, then an int32 section. Each part
    starts at a multiple of 16 bytes, because Triton compiles another kernel for an unaligned
    pointer.
    """

    num_tokens: int
    num_rows: int
    num_logits: int
    # Tiles of the tokens' adapters, and of the adapters of the rows of logits; 0: no such parts.
    num_tiles: int = 0
    num_read_tiles: int = 0

    @property
    def token_stride(self) -> int:
        """Length, padding included, of each int64 part with one number per token."""
        return -(-self.num_tokens // 2) * 2

    @property
    def int32_start(self) -> int:
        """Length of the int64 section; the int32 section starts at this offset."""
        return 3 * self.token_stride + -(-self.num_logits // 2) * 2

    @property
    def context_lens(self) -> int:
        """Offset in the int32 section."""
        return -(-(self.num_rows + 1) // 4) * 4

    @property
    def read_start(self) -> int:
        """Offset in the int32 section."""
        return self.context_lens + -(-self.num_rows // 4) * 4

    @property
    def adapter_order(self) -> int:
        """Offset in the int32 section."""
        return self.read_start + self.context_lens

    @property
    def adapter_tiles(self) -> int:
        """Offset in the int32 section."""
        return self.adapter_order + (_padded(self.num_tokens) if self.num_tiles else 0)

    @property
    def read_adapter_order(self) -> int:
        """Offset in the int32 section."""
        return self.adapter_tiles + _padded(3 * self.num_tiles)

    @property
    def read_adapter_tiles(self) -> int:
        """Offset in the int32 section."""
        return self.read_adapter_order + (_padded(self.num_logits) if self.num_read_tiles else 0)

    @property
    def block_tables(self) -> int:
        """Offset in the int32 section."""
        return self.read_adapter_tiles + _padded(3 * self.num_read_tiles)


def _padded(length: int) -> int:
    """Numbers that a part of the int32 section takes."""
    return -(-length // 4) * 4


@dataclass(frozen=True, slots=True)
class PromptTargets:
    """Prompt tokens whose logprobs are requested. Query token `first_row + i` of the step predicts
    `token_ids[i]`, which is token `first_target + i` of the prompt.
    """

    sequence: int  # index in the step
    first_row: int
    first_target: int
    token_ids: list[int]
    num_top: int


@dataclass(frozen=True, slots=True)
class Step:
    """The input of one forward pass.

    `numbers` holds, by `layout`: input_ids, positions, slot_mapping (int64 [num_tokens] each),
    logits_indices (int64 [num_logits]), query_start (int32 [num_rows + 1]), context_lens (int32
    [num_rows]), read_start (int32 [num_rows + 1]), the adapters of the tokens and of the rows of
    logits if any token has one (int32, see `AdapterRows`: order [n] and tiles [m, 3] of each), and
    the block tables (int32 [rows, table_width]). With a `shape`, the parts are padded to it.
    """

    numbers: NDArray[np.int64]
    layout: StepLayout
    shape: BatchShape | None  # None: no padding
    num_rows: int  # rows that hold a sequence
    num_logits: int  # rows of logits that are read; at least one is computed
    table_width: int
    max_query_len: int
    max_context_len: int
    max_read_rows: int  # largest number of logits rows of one sequence
    has_pending: bool
    prompt_targets: tuple[PromptTargets, ...] = ()

    @property
    def num_numbers(self) -> int:
        """Length of the used part of `numbers`."""
        end = self.layout.block_tables + self.num_rows * self.table_width
        return self.layout.int32_start + -(-end // 2)
