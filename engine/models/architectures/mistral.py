"""Mistral 7B and Nemo: Llama with a sliding window in all layers, if the config names one."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedConfig

from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.spec import DecoderSpec


class MistralForCausalLM(CausalLM):
    @classmethod
    def read_spec(cls, config: PreTrainedConfig) -> DecoderSpec:
        spec = super().read_spec(config)
        return replace(spec, sliding_windows=(config.sliding_window or 0,) * spec.num_layers)
