"""Command R7B and Command A: attention and feed-forward block side by side behind one layer norm.
Only the layers with a sliding window know positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch

from formgate.engine.attention.kv_layout import LayerCache
from formgate.engine.attention.metadata import AttentionMetadata
from formgate.engine.layers.layer import Layer
from formgate.engine.layers.norm import LayerNorm
from formgate.engine.layers.rotary import Rotary, no_rope
from formgate.engine.layers.storage import Placement
from formgate.engine.models.decoder import CausalLM, LayerParts
from formgate.engine.models.forward_batch import ForwardBatch
from formgate.engine.models.model_config import ModelConfig, windows_but_each
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

    defaults: ClassVar[Mapping[str, Any]] = {
        "vocab_size": 256000,
        "hidden_size": 8192,
        "intermediate_size": 22528,
        "num_hidden_layers": 40,
        "num_attention_heads": 64,
        "max_position_embeddings": 8192,
        "rms_norm_eps": None,
        "layer_norm_eps": 1e-05,
        "tie_word_embeddings": True,
        "logit_scale": 0.0625,
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
        "eos_token_id": 255001,
    }

    @classmethod
    def derive_fields(cls, fields: dict[str, Any]) -> None:
        super().derive_fields(fields)
        windows_but_each(fields["sliding_window_pattern"], fields)

    @classmethod
    def read_spec(cls, config: ModelConfig) -> DecoderSpec:
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
