"""Phi-3 and Phi-4: the checkpoints already stack query, key and value, and gate and up."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedConfig

from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.spec import DecoderSpec


class Phi3ForCausalLM(CausalLM):
    @classmethod
    def read_spec(cls, config: PreTrainedConfig) -> DecoderSpec:
        spec = super().read_spec(config)
        return replace(spec, sliding_windows=(config.sliding_window or 0,) * spec.num_layers)
