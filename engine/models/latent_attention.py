"""The attention block of DeepSeek's models: compressed keys and values, queries that most models
compress too, paged latent attention, the output projection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from formgate.engine.attention.kv_layout import KVLayout, LatentLayout, LayerCache
from formgate.engine.attention.latent import LatentAttention
from formgate.engine.attention.latent_warm_up import latent_attention_tasks
from formgate.engine.attention.metadata import AttentionMetadata
from formgate.engine.attention.warm_up import Task
from formgate.engine.layers.layer import Layer
from formgate.engine.layers.linear import ColumnLinear, Linear, RowLinear
from formgate.engine.layers.norm import RMSNorm
from formgate.engine.layers.parallel import Slice, TensorParallel
from formgate.engine.layers.rotary import Rotary
from formgate.engine.layers.storage import DenseMethod, Placement
from formgate.engine.models.forward_batch import ForwardBatch
from formgate.engine.models.spec import DecoderSpec
from formgate.engine.step import BatchShape

# Of the two inner norms: the published models' code does not take it from the config.
EPS = 1e-6


class LatentSelfAttention(Layer):
    """The latent vector is computed on every rank; the heads are split."""

    def __init__(self, spec: DecoderSpec, layer: int, rotary: Rotary, placement: Placement) -> None:
        super().__init__()
        shape = spec.latent
        assert shape is not None
        self.latent = shape
        query_dim = shape.head_dim + shape.rotary_dim
        heads = Slice.of_heads(spec.num_heads, 1, placement.parallel)
        self.num_heads = heads.length
        entry = Slice.whole(shape.latent_dim + shape.rotary_dim)
        query = Slice.of_heads(spec.num_heads, query_dim, placement.parallel)
        compressed = shape.query_latent_dim
        self.a_proj = Linear(
            Slice.whole(spec.hidden_size),
            {"q": query if compressed is None else Slice.whole(compressed), "kv": entry},
            bias=spec.qkv_bias,
            placement=placement.inside("a_proj"),
        )
        self.q_a_layernorm: RMSNorm | None = None
        self.q_b_proj: Linear | None = None
        if compressed is not None:
            self.q_a_layernorm = RMSNorm(compressed, EPS, placement)
            self.q_b_proj = ColumnLinear(
                compressed,
                spec.num_heads * query_dim,
                bias=False,
                placement=placement.inside("q_b_proj"),
            )
        self.kv_a_layernorm = RMSNorm(shape.latent_dim, EPS, placement)
        self.kv_b_proj = ColumnLinear(
            shape.latent_dim,
            spec.num_heads * (shape.head_dim + shape.value_dim),
            bias=False,
            placement=placement.inside("kv_b_proj"),
        )
        self.kv_b_proj.takes_adapters = False  # queries and outputs are multiplied with its parts
        self.o_proj = RowLinear(
            spec.num_heads * shape.value_dim,
            spec.hidden_size,
            bias=spec.output_bias,
            placement=placement.inside("o_proj"),
        )
        self.attention = LatentAttention(
            shape,
            rotary,
            num_heads=self.num_heads,
            scale=spec.attention_scale or query_dim**-0.5,
            eps=EPS,
        )
        # [num_heads, head_dim, latent_dim] and [num_heads, latent_dim, value_dim]
        self.absorb_key = self.absorb_value = torch.empty(0)

    def finish_loading(self) -> None:
        """Take the two matrices that queries and outputs are multiplied with out of `kv_b_proj`."""
        shape = self.latent
        if type(self.kv_b_proj.method) is DenseMethod:  # a subclass repacks it
            matrix = self.kv_b_proj.tensors["weight"]
        else:
            # A quantized matrix times the identity.
            weight = self.kv_a_layernorm.weight
            identity = torch.eye(shape.latent_dim, dtype=weight.dtype, device=weight.device)
            matrix = self.kv_b_proj(identity).t()
        heads = matrix.view(self.num_heads, shape.head_dim + shape.value_dim, shape.latent_dim)
        self.absorb_key = heads[:, : shape.head_dim]
        self.absorb_value = heads[:, shape.head_dim :].transpose(1, 2)

    def forward(
        self,
        hidden: torch.Tensor,
        kv_cache: LayerCache,
        batch: ForwardBatch,
        read: AttentionMetadata | None,  # of the tokens whose outputs are computed; None: all
    ) -> torch.Tensor:
        shape = self.latent
        width = shape.latent_dim + shape.rotary_dim
        both = self.a_proj(hidden)
        query, entries = both.split((both.shape[1] - width, width), dim=-1)
        if self.q_a_layernorm is not None and self.q_b_proj is not None:
            query = self.q_b_proj(self.q_a_layernorm(query))
        query = query.unflatten(1, (self.num_heads, -1))
        metadata = batch.attention
        norm = self.kv_a_layernorm.weight
        self.attention.store(query, entries, norm, batch.positions, kv_cache, metadata)
        own_entries: torch.Tensor | None = entries
        if read is not None:
            query, metadata = query.index_select(0, batch.logits_indices), read
            own_entries = None  # of the tokens that are not read
        attended = self.attention(
            query,
            own_entries,
            self.kv_b_proj,
            self.absorb_key,
            self.absorb_value,
            kv_cache,
            metadata,
        )
        out: torch.Tensor = self.o_proj(attended.flatten(1))
        return out

    @staticmethod
    def kv_layout(
        spec: DecoderSpec, parallel: TensorParallel, block_size: int, dtype: torch.dtype
    ) -> KVLayout:
        assert spec.latent is not None
        width = spec.latent.latent_dim + spec.latent.rotary_dim
        return LatentLayout(spec.num_layers, block_size, width, dtype)

    @staticmethod
    def warm_up(
        model: nn.Module,
        spec: DecoderSpec,
        layout: KVLayout,
        shapes: Iterable[BatchShape],
        max_context_len: int,
        device: torch.device,
    ) -> Iterator[Task]:
        assert isinstance(layout, LatentLayout)
        block = next(m for m in model.modules() if isinstance(m, LatentSelfAttention))
        return latent_attention_tasks(
            block.attention,
            (block.kv_b_proj, block.absorb_key, block.absorb_value),
            shapes,
            layout,
            max_context_len=max_context_len,
            device=device,
        )
