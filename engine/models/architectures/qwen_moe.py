"""Qwen2-MoE and Qwen3-MoE: Qwen's layers with experts in all or every few of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from formgate.engine.layers.experts import ExpertsSpec
from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.expert_specs import count_experts, expert_count
from formgate.engine.models.model_config import ModelConfig
from formgate.engine.models.spec import DecoderSpec, windows_by_layer_type
from formgate.kernels.experts.choose_experts import Choice

COMMON: Mapping[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "decoder_sparse_step": 1,
    "mlp_only_layers": None,
    "norm_topk_prob": False,
}


def _alternate_windows(fields: dict[str, Any]) -> None:
    """Where the config does not list its layers' kinds: if windows are in use, every other layer
    below `max_window_layers` has one.
    """
    if not fields["use_sliding_window"]:
        fields["sliding_window"] = None
    if fields["layer_types"] is None:
        windowed = fields["use_sliding_window"]
        fields["layer_types"] = [
            "sliding_attention"
            if windowed and layer % 2 == 0 and layer < fields["max_window_layers"]
            else "full_attention"
            for layer in range(fields["num_hidden_layers"])
        ]


def _experts(config: ModelConfig, *, shared_size: int = 0) -> ExpertsSpec:
    return ExpertsSpec(
        num_experts=expert_count(config),
        intermediate_size=config.moe_intermediate_size,
        choice=Choice(top_k=config.num_experts_per_tok, renormalize=config.norm_topk_prob),
        shared_size=shared_size,
        shared_gate=shared_size > 0,
    )


def _expert_layers(config: ModelConfig) -> tuple[bool, ...]:
    return tuple(
        layer not in (config.mlp_only_layers or ())
        and (layer + 1) % config.decoder_sparse_step == 0
        for layer in range(config.num_hidden_layers)
    )


class Qwen2MoeForCausalLM(CausalLM):
    renamed: ClassVar[Mapping[str, tuple[str, str | None]]] = {
        **CausalLM.renamed,
        "shared_expert_gate": ("shared_gate", None),
    }
    renamed_parts: ClassVar[Mapping[str, str]] = {"shared_expert": "shared_experts"}

    defaults: ClassVar[Mapping[str, Any]] = {
        **COMMON,
        "intermediate_size": 5632,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "qkv_bias": True,
        "max_window_layers": 28,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_experts_per_tok": 4,
    }

    @classmethod
    def derive_fields(cls, fields: dict[str, Any]) -> None:
        super().derive_fields(fields)
        _alternate_windows(fields)
        count_experts(fields, 60)

    @classmethod
    def read_spec(cls, config: ModelConfig) -> DecoderSpec:
        return replace(
            super().read_spec(config),
            qkv_bias=config.qkv_bias,
            sliding_windows=windows_by_layer_type(config),
            experts=_experts(config, shared_size=config.shared_expert_intermediate_size),
            expert_layers=_expert_layers(config),
        )


class Qwen3MoeForCausalLM(CausalLM):
    defaults: ClassVar[Mapping[str, Any]] = {
        **COMMON,
        "intermediate_size": 6144,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 768,
        "num_experts_per_tok": 8,
    }

    @classmethod
    def derive_fields(cls, fields: dict[str, Any]) -> None:
        super().derive_fields(fields)
        if not fields["use_sliding_window"]:
            fields["sliding_window"] = None
        count_experts(fields, 128)

    @classmethod
    def read_spec(cls, config: ModelConfig) -> DecoderSpec:
        spec = super().read_spec(config)
        return replace(
            spec,
            qkv_bias=config.attention_bias,
            output_bias=config.attention_bias,
            query_key_norm="head",
            sliding_windows=(config.sliding_window or 0,) * spec.num_layers,
            experts=_experts(config),
            expert_layers=_expert_layers(config),
        )
