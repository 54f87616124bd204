"""Mistral 7B and Nemo: Llama with a sliding window in all layers, if the config names one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.model_config import ModelConfig
from formgate.engine.models.spec import DecoderSpec


class MistralForCausalLM(CausalLM):
    defaults: ClassVar[Mapping[str, Any]] = {
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
        "eos_token_id": 2,
    }

    @classmethod
    def read_spec(cls, config: ModelConfig) -> DecoderSpec:
        spec = super().read_spec(config)
        return replace(spec, sliding_windows=(config.sliding_window or 0,) * spec.num_layers)
