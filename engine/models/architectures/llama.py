"""Llama 2, 3, 3.1 and models of the same architecture (CodeLlama, R1-Distill-Llama)."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedConfig

from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.spec import DecoderSpec


class LlamaForCausalLM(CausalLM):
    @classmethod
    def read_spec(cls, config: PreTrainedConfig) -> DecoderSpec:
        return replace(
            super().read_spec(config),
            qkv_bias=config.attention_bias,
            output_bias=config.attention_bias,
            mlp_bias=config.mlp_bias,
        )
