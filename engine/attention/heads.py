"""Attention with a key and a value for each head, over the paged cache: every query token sees its
sequence's blocks, where this step's keys and values lie already. It knows no projection.
"""

from __future__ import annotations

import torch

from formgate.engine.attention.kv_layout import LayerCache
from formgate.engine.attention.metadata import AttentionMetadata
from formgate.engine.layers.layer import Layer
from formgate.engine.layers.rotary import Rotary
from formgate.kernels.paged_attention import paged_attention
from formgate.kernels.rotary_write_kv import rotary_write_kv


class PagedAttention(Layer):
    """`sliding_window`: how many keys a token sees, itself included; 0 is all."""

    def __init__(
        self,
        rotary: Rotary,
        *,
        num_heads: int,
        scale: float,
        sliding_window: int = 0,
        softcap: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads  # of this rank
        self.rotary = rotary
        self.scale = scale
        self.sliding_window = sliding_window
        self.softcap = softcap

    def store(
        self,
        query: torch.Tensor,  # [num_tokens, num_heads, head_dim]
        key: torch.Tensor,  # [num_tokens, num_kv_heads, head_dim]
        value: torch.Tensor,
        positions: torch.Tensor,  # int64 [num_tokens]
        kv_cache: LayerCache,
        metadata: AttentionMetadata,
    ) -> torch.Tensor:
        """Rotate queries and keys by their positions, and write keys and values to the cache, all
        in one kernel. Returns the rotated queries, perhaps in place.
        """
        key_cache, value_cache = kv_cache
        rotated: torch.Tensor = rotary_write_kv(
            positions,
            query,
            key,
            value,
            self.rotary.cos_sin,
            key_cache,
            value_cache,
            metadata.slot_mapping,
        )
        return rotated

    def forward(
        self,
        query: torch.Tensor,  # [num_tokens, num_heads, head_dim]
        kv_cache: LayerCache,
        metadata: AttentionMetadata,
    ) -> torch.Tensor:  # [num_tokens, num_heads, head_dim]
        key_cache, value_cache = kv_cache
        attended: torch.Tensor = paged_attention(
            query,
            key_cache,
            value_cache,
            metadata.block_tables,
            metadata.query_start,
            metadata.context_lens,
            max_query_len=metadata.max_query_len,
            max_context_len=metadata.max_context_len,
            scale=self.scale,
            sliding_window=self.sliding_window,
            logit_softcap=self.softcap,
            plans=metadata.plans,
        )
        return attended
