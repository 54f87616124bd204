"""OLMo 2: blocks are normalized behind, not before; queries and keys over all heads together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch

from formgate.engine.attention.kv_layout import LayerCache
from formgate.engine.attention.metadata import AttentionMetadata
from formgate.engine.layers.layer import Layer
from formgate.engine.layers.rotary import Rotary
from formgate.engine.layers.storage import Placement
from formgate.engine.models.decoder import CausalLM, LayerParts
from formgate.engine.models.forward_batch import ForwardBatch
from formgate.engine.models.model_config import ModelConfig
from formgate.engine.models.spec import DecoderSpec


class PostNormLayer(Layer):
    def __init__(
        self, spec: DecoderSpec, layer: int, rotary: Rotary, placement: Placement, parts: LayerParts
    ) -> None:
        super().__init__()
        self.self_attn = parts.attention(spec, layer, rotary, placement.inside("self_attn"))
        self.post_attention_layernorm = parts.norm(spec, placement)
        self.mlp = parts.mlp(spec, layer, placement.inside("mlp"))
        self.post_feedforward_layernorm = parts.norm(spec, placement)

    def forward(
        self,
        hidden: torch.Tensor,
        residual: torch.Tensor | None,
        kv_cache: LayerCache,
        batch: ForwardBatch,
        read: AttentionMetadata | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `DecoderLayer`."""
        residual = hidden if residual is None else hidden + residual
        hidden = self.self_attn(residual, kv_cache, batch, read)
        if read is not None:
            residual = residual.index_select(0, batch.logits_indices)
        residual = residual + self.post_attention_layernorm(hidden)
        hidden = self.mlp(residual)
        return self.post_feedforward_layernorm(hidden), residual


class Olmo2ForCausalLM(CausalLM):
    parts: ClassVar[LayerParts] = LayerParts(layer=PostNormLayer)

    defaults: ClassVar[Mapping[str, Any]] = {
        "vocab_size": 50304,
        "rms_norm_eps": 1e-05,
        "eos_token_id": 50279,
    }

    @classmethod
    def read_spec(cls, config: ModelConfig) -> DecoderSpec:
        return replace(
            super().read_spec(config),
            qkv_bias=config.attention_bias,
            output_bias=config.attention_bias,
            query_key_norm="all_heads",
        )
