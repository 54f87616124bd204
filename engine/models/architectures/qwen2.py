"""Qwen2, Qwen2.5 and R1-Distill-Qwen: a bias on query, key and value; a sliding window in some
layers, if the config says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.model_config import ModelConfig, window_above
from formgate.engine.models.spec import DecoderSpec, windows_by_layer_type


class Qwen2ForCausalLM(CausalLM):
    defaults: ClassVar[Mapping[str, Any]] = {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
    }

    @classmethod
    def derive_fields(cls, fields: dict[str, Any]) -> None:
        super().derive_fields(fields)
        window_above(fields)

    @classmethod
    def read_spec(cls, config: ModelConfig) -> DecoderSpec:
        return replace(
            super().read_spec(config),
            qkv_bias=True,
            sliding_windows=windows_by_layer_type(config),
        )
