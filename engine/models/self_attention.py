"""The attention block of most decoders: the QKV projection, paged multi-head attention, the output
projection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from formgate.engine.attention.heads import PagedAttention
from formgate.engine.attention.kv_layout import HeadsLayout, KVLayout, LayerCache
from formgate.engine.attention.metadata import AttentionMetadata
from formgate.engine.attention.warm_up import Task, attention_tasks
from formgate.engine.layers.layer import Layer
from formgate.engine.layers.linear import QKVLinear, RowLinear
from formgate.engine.layers.norm import HeadsNorm, RMSNorm
from formgate.engine.layers.parallel import Slice, TensorParallel
from formgate.engine.layers.parameter import WeightParameter
from formgate.engine.layers.rotary import Rotary
from formgate.engine.layers.storage import LinearPart, Placement, StoredTensor
from formgate.engine.models.forward_batch import ForwardBatch
from formgate.engine.models.spec import DecoderSpec
from formgate.engine.step import BatchShape


class SelfAttention(Layer):
    def __init__(self, spec: DecoderSpec, layer: int, rotary: Rotary, placement: Placement) -> None:
        super().__init__()
        self.head_dim = spec.head_dim
        self.qkv_proj = QKVLinear(
            spec.hidden_size,
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            bias=spec.qkv_bias,
            placement=placement.inside("qkv_proj"),
        )
        self.o_proj = RowLinear(
            spec.num_heads * spec.head_dim,
            spec.hidden_size,
            bias=spec.output_bias,
            placement=placement.inside("o_proj"),
        )
        self.num_heads = self.qkv_proj.num_heads
        self.num_kv_heads = self.qkv_proj.num_kv_heads
        self.q_norm: RMSNorm | HeadsNorm | None = None
        self.k_norm: RMSNorm | HeadsNorm | None = None
        # Features that are normalized together.
        self.query_width = self.key_width = spec.head_dim
        if spec.query_key_norm == "head":
            self.q_norm = RMSNorm(spec.head_dim, spec.norm_eps, placement, offset=spec.norm_offset)
            self.k_norm = RMSNorm(spec.head_dim, spec.norm_eps, placement, offset=spec.norm_offset)
        elif spec.query_key_norm == "all_heads":
            outputs = self.qkv_proj.outputs
            self.query_width, self.key_width = outputs["q"].length, outputs["k"].length
            self.q_norm = HeadsNorm(outputs["q"], spec.norm_eps, placement)
            self.k_norm = HeadsNorm(outputs["k"], spec.norm_eps, placement)
        self.sinks: WeightParameter | None = None
        if spec.attention_sinks:
            heads = Slice.of_heads(spec.num_heads, 1, placement.parallel)
            part = LinearPart(Slice.whole(1), {"out": heads}, torch.float32, placement.device)
            shape = (heads.length,)
            stored = StoredTensor("sinks", shape, part.dtype, output_dim=0, input_dim=None)
            self.sinks = stored.parameter(part)
        self.attention = PagedAttention(
            rotary,
            num_heads=self.num_heads,
            scale=spec.attention_scale or spec.head_dim**-0.5,
            sliding_window=spec.window_of(layer),
            softcap=spec.attention_softcap,
            sinks=None if self.sinks is None else self.sinks.data,
        )

    def forward(
        self,
        hidden: torch.Tensor,
        kv_cache: LayerCache,
        batch: ForwardBatch,
        read: AttentionMetadata | None,  # of the tokens whose outputs are computed; None: all
    ) -> torch.Tensor:
        num_tokens = hidden.shape[0]
        heads, kv_heads = self.num_heads, self.num_kv_heads
        qkv = self.qkv_proj(hidden).view(num_tokens, heads + 2 * kv_heads, self.head_dim)
        query, key, value = qkv.split((heads, kv_heads, kv_heads), dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            query = self.q_norm(query.reshape(-1, self.query_width)).view(query.shape)
            key = self.k_norm(key.reshape(-1, self.key_width)).view(key.shape)
        metadata = batch.attention
        query = self.attention.store(query, key, value, batch.positions, kv_cache, metadata)
        if read is not None:
            query, metadata = query.index_select(0, batch.logits_indices), read
        attended = self.attention(query, kv_cache, metadata)
        out: torch.Tensor = self.o_proj(attended.reshape(-1, heads * self.head_dim))
        return out

    @staticmethod
    def kv_layout(
        spec: DecoderSpec, parallel: TensorParallel, block_size: int, dtype: torch.dtype
    ) -> KVLayout:
        kv_heads = Slice.of_heads(spec.num_kv_heads, 1, parallel).length
        return HeadsLayout(spec.num_layers, block_size, kv_heads, spec.head_dim, dtype)

    @staticmethod
    def warm_up(
        model: nn.Module,
        spec: DecoderSpec,
        layout: KVLayout,
        shapes: Iterable[BatchShape],
        max_context_len: int,
        device: torch.device,
    ) -> Iterator[Task]:
        assert isinstance(layout, HeadsLayout)
        return attention_tasks(
            model, shapes, layout, max_context_len=max_context_len, device=device
        )
