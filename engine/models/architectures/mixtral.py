"""Mixtral: Mistral's layers with a mixture of experts in place of each MLP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from formgate.engine.layers.experts import ExpertsSpec
from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.expert_specs import count_experts, expert_count
from formgate.engine.models.model_config import ModelConfig
from formgate.engine.models.spec import DecoderSpec
from formgate.kernels.experts.choose_experts import Choice


class MixtralForCausalLM(CausalLM):
    renamed: ClassVar[Mapping[str, tuple[str, str | None]]] = {
        "w1": ("gate_up_proj", "gate"),
        "w3": ("gate_up_proj", "up"),
        "w2": ("down_proj", None),
        **CausalLM.renamed,
    }
    renamed_parts: ClassVar[Mapping[str, str]] = {"block_sparse_moe": "mlp"}

    defaults: ClassVar[Mapping[str, Any]] = {
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1_000_000.0,
        "num_experts_per_tok": 2,
        "eos_token_id": 2,
    }

    @classmethod
    def derive_fields(cls, fields: dict[str, Any]) -> None:
        super().derive_fields(fields)
        count_experts(fields, 8)

    @classmethod
    def read_spec(cls, config: ModelConfig) -> DecoderSpec:
        spec = super().read_spec(config)
        experts = ExpertsSpec(
            num_experts=expert_count(config),
            intermediate_size=config.intermediate_size,
            choice=Choice(top_k=config.num_experts_per_tok, renormalize=True),
        )
        window = config.sliding_window or 0
        return replace(spec, experts=experts, sliding_windows=(window,) * spec.num_layers)
