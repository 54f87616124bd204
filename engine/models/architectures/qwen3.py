"""Qwen3: as Qwen2, but query and key are normalized per head, and have biases if the config says
so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from formgate.engine.models.architectures.qwen2 import Qwen2ForCausalLM
from formgate.engine.models.model_config import ModelConfig
from formgate.engine.models.spec import DecoderSpec


class Qwen3ForCausalLM(Qwen2ForCausalLM):
    defaults: ClassVar[Mapping[str, Any]] = {**Qwen2ForCausalLM.defaults, "head_dim": 128}

    @classmethod
    def read_spec(cls, config: ModelConfig) -> DecoderSpec:
        return replace(
            super().read_spec(config),
            qkv_bias=config.attention_bias,
            output_bias=config.attention_bias,
            query_key_norm="head",
        )
