"""Llama 2, 3, 3.1 and models of the same architecture (CodeLlama, R1-Distill-Llama)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.model_config import ModelConfig
from formgate.engine.models.spec import DecoderSpec


class LlamaForCausalLM(CausalLM):
    defaults: ClassVar[Mapping[str, Any]] = {
        "eos_token_id": 2,
    }

    @classmethod
    def read_spec(cls, config: ModelConfig) -> DecoderSpec:
        return replace(
            super().read_spec(config),
            qkv_bias=config.attention_bias,
            output_bias=config.attention_bias,
            mlp_bias=config.mlp_bias,
        )
