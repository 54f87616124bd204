"""Qwen2, Qwen2.5 and R1-Distill-Qwen: a bias on query, key and value; a sliding window in some
layers, if the config says so.
"""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedConfig

from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.spec import DecoderSpec, windows_by_layer_type


class Qwen2ForCausalLM(CausalLM):
    @classmethod
    def read_spec(cls, config: PreTrainedConfig) -> DecoderSpec:
        return replace(
            super().read_spec(config),
            qkv_bias=True,
            sliding_windows=windows_by_layer_type(config),
        )
