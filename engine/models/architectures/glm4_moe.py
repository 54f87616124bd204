"""GLM-4.5 and its successors: experts as in DeepSeek-V3 over attention by heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.expert_specs import (
    after_dense_layers,
    balanced_experts,
    count_experts,
)
from formgate.engine.models.model_config import ModelConfig
from formgate.engine.models.spec import DecoderSpec


class Glm4MoeForCausalLM(CausalLM):
    skips_extra_layers: ClassVar[bool] = True

    defaults: ClassVar[Mapping[str, Any]] = {
        "vocab_size": 151552,
        "intermediate_size": 10944,
        "num_hidden_layers": 46,
        "num_attention_heads": 96,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "partial_rotary_factor": 0.5,
        "moe_intermediate_size": 1408,
        "num_experts_per_tok": 8,
        "n_shared_experts": 1,
        "routed_scaling_factor": 1.0,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "norm_topk_prob": True,
        "use_qk_norm": False,
    }

    @classmethod
    def derive_fields(cls, fields: dict[str, Any]) -> None:
        super().derive_fields(fields)
        count_experts(fields, 128)

    @classmethod
    def read_spec(cls, config: ModelConfig) -> DecoderSpec:
        return replace(
            super().read_spec(config),
            qkv_bias=config.attention_bias,
            query_key_norm="head" if config.use_qk_norm else "none",
            experts=balanced_experts(config),
            expert_layers=after_dense_layers(config),
        )
