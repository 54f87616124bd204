"""The inputs of one forward pass, as device tensors. The runner builds them; the scheduler never
sees them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from formgate.engine.attention.metadata import AttentionMetadata


@dataclass(frozen=True, slots=True)
class AdapterRows:
    """The tokens of a batch by their adapters: those of a tile have the same one."""

    order: torch.Tensor  # int32 [n]: tokens by slot; those without an adapter are left out
    tiles: torch.Tensor  # int32 [m, 3]: slot (-1: unused), first place in `order`, tokens
    tile_rows: int  # most tokens of a tile


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """A ragged batch: the query tokens of all sequences, concatenated. A sequence has one query
    token (decode) or several (chunked prefill, forced tokens).
    """

    input_ids: torch.Tensor  # int64 [num_tokens]
    positions: torch.Tensor  # int64 [num_tokens]
    logits_indices: torch.Tensor  # int64 [num_logits]: rows of the hidden states to project
    attention: AttentionMetadata
    # Metadata of the tokens at `logits_indices` only. The last layer computes no other token after
    # it has written keys and values. None: it computes every token.
    read: AttentionMetadata | None = None
    adapters: AdapterRows | None = None  # None: no token has an adapter
    read_adapters: AdapterRows | None = None  # of the tokens at `logits_indices`, with `read`
