"""Multi-head attention over the paged KV cache (with grouped key and value heads). The projections
around it belong to the model's attention block.
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
    """`store` writes a step's keys and values to the cache; the call then attends to the cache.

    `sliding_window`: number of keys that a token attends to, itself included; 0: all.
    `softcap`: caps scores as `softcap * tanh(score / softcap)`; 0: off.
    `sinks`: float32 [num_heads], one more score of each head's softmax, with a value of 0.
    """

    def __init__(
        self,
        rotary: Rotary,
        *,
        num_heads: int,
        scale: float,
        sliding_window: int = 0,
        softcap: float = 0.0,
        sinks: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads  # query heads of this rank
        self.rotary = rotary
        self.scale = scale
        self.sliding_window = sliding_window
        self.softcap = softcap
        self.sinks = sinks

    def store(
        self,
        query: torch.Tensor,  # [num_tokens, num_heads, head_dim]
        key: torch.Tensor,  # [num_tokens, num_kv_heads, head_dim]
        value: torch.Tensor,  # [num_tokens, num_kv_heads, head_dim]
        positions: torch.Tensor,  # int64 [num_tokens]
        kv_cache: LayerCache,
        metadata: AttentionMetadata,
    ) -> torch.Tensor:
        """Rotate queries and keys by their positions and write keys and values to the cache, in one
        kernel. Returns the rotated queries, which may share `query`'s memory.
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
            interleaved=self.rotary.interleaved,
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
            sinks=self.sinks,
            plans=metadata.plans,
        )
        return attended
