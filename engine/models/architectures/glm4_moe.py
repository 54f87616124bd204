"""GLM-4.5 and its successors: experts as in DeepSeek-V3 over attention by heads."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from transformers import PreTrainedConfig

from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.expert_specs import after_dense_layers, balanced_experts
from formgate.engine.models.spec import DecoderSpec


class Glm4MoeForCausalLM(CausalLM):
    skips_extra_layers: ClassVar[bool] = True

    @classmethod
    def read_spec(cls, config: PreTrainedConfig) -> DecoderSpec:
        return replace(
            super().read_spec(config),
            qkv_bias=config.attention_bias,
            query_key_norm="head" if config.use_qk_norm else "none",
            experts=balanced_experts(config),
            expert_layers=after_dense_layers(config),
        )
