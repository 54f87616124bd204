"""Attention over the paged cache: every query token sees its sequence's blocks, where this step's
keys and values lie already. It knows no projection and no position encoding.
"""

from __future__ import annotations

import torch

from formgate.engine.batch import ForwardBatch
from formgate.engine.layers.layer import Layer
from formgate.kernels.paged_attention import paged_attention

KVCache = tuple[torch.Tensor, torch.Tensor]  # two of [blocks, block_size, num_kv_heads, head_dim]


class PagedAttention(Layer):
    """`sliding_window`: how many keys a token sees, itself included; 0 is all."""

    def __init__(self, *, scale: float, sliding_window: int = 0, softcap: float = 0.0) -> None:
        super().__init__()
        self.scale = scale
        self.sliding_window = sliding_window
        self.softcap = softcap

    def forward(
        self,
        query: torch.Tensor,  # [num_tokens, num_heads, head_dim]
        kv_cache: KVCache,
        batch: ForwardBatch,
    ) -> torch.Tensor:  # [num_tokens, num_heads, head_dim]
        key_cache, value_cache = kv_cache
        attended: torch.Tensor = paged_attention(
            query,
            key_cache,
            value_cache,
            batch.block_tables,
            batch.query_start,
            batch.context_lens,
            max_query_len=batch.max_query_len,
            max_context_len=batch.max_context_len,
            scale=self.scale,
            sliding_window=self.sliding_window,
            logit_softcap=self.softcap,
            plans=batch.plans,
        )
        return attended
