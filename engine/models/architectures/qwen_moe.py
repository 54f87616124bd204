"""Qwen2-MoE and Qwen3-MoE: Qwen's layers with experts in all or every few of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from transformers import PreTrainedConfig

from formgate.engine.layers.experts import ExpertsSpec
from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.spec import DecoderSpec, windows_by_layer_type
from formgate.kernels.experts.choose_experts import Choice


def _experts(config: PreTrainedConfig, *, shared_size: int = 0) -> ExpertsSpec:
    return ExpertsSpec(
        num_experts=config.num_experts,
        intermediate_size=config.moe_intermediate_size,
        choice=Choice(top_k=config.num_experts_per_tok, renormalize=config.norm_topk_prob),
        shared_size=shared_size,
        shared_gate=shared_size > 0,
    )


def _expert_layers(config: PreTrainedConfig) -> tuple[bool, ...]:
    return tuple(
        layer not in config.mlp_only_layers and (layer + 1) % config.decoder_sparse_step == 0
        for layer in range(config.num_hidden_layers)
    )


class Qwen2MoeForCausalLM(CausalLM):
    renamed: ClassVar[Mapping[str, tuple[str, str | None]]] = {
        **CausalLM.renamed,
        "shared_expert_gate": ("shared_gate", None),
    }
    renamed_parts: ClassVar[Mapping[str, str]] = {"shared_expert": "shared_experts"}

    @classmethod
    def read_spec(cls, config: PreTrainedConfig) -> DecoderSpec:
        return replace(
            super().read_spec(config),
            qkv_bias=config.qkv_bias,
            sliding_windows=windows_by_layer_type(config),
            experts=_experts(config, shared_size=config.shared_expert_intermediate_size),
            expert_layers=_expert_layers(config),
        )


class Qwen3MoeForCausalLM(CausalLM):
    @classmethod
    def read_spec(cls, config: PreTrainedConfig) -> DecoderSpec:
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
