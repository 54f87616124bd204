"""The metadata of a step that all its attention layers share: lengths, block tables, slots. It does
not depend on the contents of a block.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class AttentionMetadata:
    """Query token `j` of a sequence with `q` query tokens and `c` context tokens sits at position
    `c - q + j` and attends to keys `0 .. c - q + j`.
    """

    slot_mapping: torch.Tensor  # int64 [num_tokens]: block * block_size + offset; -1 writes nothing
    block_tables: torch.Tensor  # int32 [num_seqs, max_blocks], padded with 0
    query_start: torch.Tensor  # int32 [num_seqs + 1], cumulative query lengths
    context_lens: torch.Tensor  # int32 [num_seqs]: keys of each sequence, this step's included
    max_query_len: int
    max_context_len: int
    # Data that a kernel derives from the lengths and tables, once for all layers.
    plans: dict[int, Any] = field(default_factory=dict)
