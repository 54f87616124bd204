"""Qwen3: query and key are normalized per head."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedConfig

from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.spec import DecoderSpec, windows_by_layer_type


class Qwen3ForCausalLM(CausalLM):
    @classmethod
    def read_spec(cls, config: PreTrainedConfig) -> DecoderSpec:
        return replace(
            super().read_spec(config),
            qkv_bias=config.attention_bias,
            output_bias=config.attention_bias,
            query_key_norm="head",
            sliding_windows=windows_by_layer_type(config),
        )
