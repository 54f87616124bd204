"""Granite 3: embeddings, attention scores, residuals and logits each have their own scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.model_config import ModelConfig
from formgate.engine.models.spec import DecoderSpec


class GraniteForCausalLM(CausalLM):
    defaults: ClassVar[Mapping[str, Any]] = {
        "eos_token_id": 2,
        "embedding_multiplier": 1.0,
        "logits_scaling": 1.0,
        "residual_multiplier": 1.0,
        "attention_multiplier": 1.0,
    }

    @classmethod
    def read_spec(cls, config: ModelConfig) -> DecoderSpec:
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
