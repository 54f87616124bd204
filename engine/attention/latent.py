"""Attention over a paged cache of latent vectors (multi-head latent attention of DeepSeek-V2,
arXiv:2405.04434). The projections around it belong to the model's attention block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from formgate.engine.attention.kv_layout import LayerCache
from formgate.engine.attention.metadata import AttentionMetadata
from formgate.engine.layers.layer import Layer
from formgate.engine.layers.rotary import Rotary
from formgate.engine.step import SHORT_QUERY
from formgate.kernels.latent_attention import latent_attention
from formgate.kernels.prompt_attention import prompt_attention
from formgate.kernels.write_latent import write_latent


@dataclass(frozen=True, slots=True)
class LatentShape:
    """Sizes of latent attention. A query head is its own part and then a rotary part."""

    latent_dim: int
    head_dim: int  # of a query's and a key's own part
    rotary_dim: int
    value_dim: int
    query_latent_dim: int | None = None  # None: queries are not compressed


class LatentAttention(Layer):
    """`store` completes a step's entries and writes them to the cache; the call then attends.

    Two forms give the same result. Absorbed: a query is projected into the latent space, where an
    entry is key and value of all heads; it reads few bytes. Expanded: keys and values of each head
    are computed from the entries; it takes a third of the arithmetic. Prompts that begin in this
    step are expanded, all else is absorbed.
    """

    def __init__(
        self,
        shape: LatentShape,
        rotary: Rotary,
        *,
        num_heads: int,
        scale: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.rotary = rotary
        self.num_heads = num_heads  # of this rank
        self.scale = scale
        self.eps = eps

    def store(
        self,
        query: torch.Tensor,  # [num_tokens, num_heads, head_dim + rotary_dim]
        entries: torch.Tensor,  # [num_tokens, latent_dim + rotary_dim]
        norm_weight: torch.Tensor,  # [latent_dim]
        positions: torch.Tensor,  # int64 [num_tokens]
        kv_cache: LayerCache,
        metadata: AttentionMetadata,
    ) -> None:
        """Normalize and rotate in place, in one kernel, and write the entries to the cache."""
        write_latent(
            positions,
            query[..., self.shape.head_dim :],
            entries,
            norm_weight,
            self.rotary.cos_sin,
            kv_cache[0],
            metadata.slot_mapping,
            eps=self.eps,
            interleaved=self.rotary.interleaved,
        )

    def forward(
        self,
        query: torch.Tensor,  # [num_tokens, num_heads, head_dim + rotary_dim], as `store` left it
        entries: torch.Tensor | None,  # this step's, as `store` left them; None: absorbed only
        expand: Callable[[torch.Tensor], torch.Tensor],  # latent vectors -> keys and values
        absorb_key: torch.Tensor,  # [num_heads, head_dim, latent_dim]
        absorb_value: torch.Tensor,  # [num_heads, latent_dim, value_dim]
        kv_cache: LayerCache,
        metadata: AttentionMetadata,
    ) -> torch.Tensor:  # [num_tokens, num_heads, value_dim]
        shape = self.shape
        own, rotary = query[..., : shape.head_dim], query[..., shape.head_dim :]
        expanded = entries is not None and metadata.max_query_len > SHORT_QUERY
        attended = latent_attention(
            torch.bmm(own.transpose(0, 1), absorb_key).transpose(0, 1),
            rotary,
            kv_cache[0],
            metadata.block_tables,
            metadata.query_start,
            metadata.context_lens,
            max_query_len=metadata.max_query_len,
            max_context_len=metadata.max_context_len,
            scale=self.scale,
            whole_prompts_from=SHORT_QUERY + 1 if expanded else 0,
        )
        out = query.new_empty(*query.shape[:2], shape.value_dim)
        torch.bmm(attended.transpose(0, 1), absorb_value, out=out.transpose(0, 1))
        if entries is not None and expanded:
            both = expand(entries[:, : shape.latent_dim])
            both = both.view(-1, self.num_heads, shape.head_dim + shape.value_dim)
            key, value = both[..., : shape.head_dim], both[..., shape.head_dim :]
            prompt_attention(
                query,
                key,
                entries[:, shape.latent_dim :],
                value,
                metadata.query_start,
                metadata.context_lens,
                out,
                shortest=SHORT_QUERY + 1,
                scale=self.scale,
            )
        return out
