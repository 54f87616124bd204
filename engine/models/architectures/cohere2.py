"""Command R7B and Command A: attention and feed-forward block side by side behind one layer norm.
Only the layers with a sliding window know positions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from transformers import PreTrainedConfig

from formgate.engine.attention.kv_layout import LayerCache
from formgate.engine.attention.metadata import AttentionMetadata
from formgate.engine.layers.layer import Layer
from formgate.engine.layers.norm import LayerNorm
from formgate.engine.layers.rotary import Rotary, no_rope
from formgate.engine.layers.storage import Placement
from formgate.engine.models.decoder import CausalLM, LayerParts
from formgate.engine.models.forward_batch import ForwardBatch
from formgate.engine.models.spec import DecoderSpec, windows_by_layer_type


class ParallelLayer(Layer):
    def __init__(
        self, spec: DecoderSpec, layer: int, rotary: Rotary, placement: Placement, parts: LayerParts
    ) -> None:
        super().__init__()
        self.input_layernorm = parts.norm(spec, placement)
        self.self_attn = parts.attention(spec, layer, rotary, placement.inside("self_attn"))
        self.mlp = parts.mlp(spec, layer, placement.inside("mlp"))

    def forward(
        self,
        hidden: torch.Tensor,
        residual: torch.Tensor | None,
        kv_cache: LayerCache,
        batch: ForwardBatch,
        read: AttentionMetadata | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `DecoderLayer`."""
        if residual is None:
            residual = hidden
            hidden = self.input_layernorm(hidden)
        else:
            hidden, residual = self.input_layernorm.add(hidden, residual)
        attended = self.self_attn(hidden, kv_cache, batch, read)
        if read is not None:
            hidden = hidden.index_select(0, batch.logits_indices)
            residual = residual.index_select(0, batch.logits_indices)
        return attended + self.mlp(hidden), residual


def _layer_norm_part(spec: DecoderSpec, placement: Placement) -> LayerNorm:
    return LayerNorm(spec.hidden_size, spec.norm_eps, placement)


class Cohere2ForCausalLM(CausalLM):
    parts: ClassVar[LayerParts] = LayerParts(norm=_layer_norm_part, layer=ParallelLayer)

    @classmethod
    def read_spec(cls, config: PreTrainedConfig) -> DecoderSpec:
        spec = super().read_spec(config)
        rope = replace(spec.rope, interleaved=True)
        windows = windows_by_layer_type(config)
        return replace(
            spec,
            qkv_bias=config.attention_bias,
            output_bias=config.attention_bias,
            logits_scale=config.logit_scale,
            rope=rope,
            layer_ropes=tuple(rope if window else no_rope(rope) for window in windows),
            sliding_windows=windows,
        )
