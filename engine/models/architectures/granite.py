"""Granite 3: embeddings, attention scores, residuals and logits each have their own scale."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedConfig

from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.spec import DecoderSpec


class GraniteForCausalLM(CausalLM):
    @classmethod
    def read_spec(cls, config: PreTrainedConfig) -> DecoderSpec:
        return replace(
            super().read_spec(config),
            qkv_bias=config.attention_bias,
            output_bias=config.attention_bias,
            mlp_bias=config.mlp_bias,
            embedding_scale=config.embedding_multiplier,
            attention_scale=config.attention_multiplier,
            residual_scale=config.residual_multiplier,
            logits_scale=1.0 / config.logits_scaling,
        )
