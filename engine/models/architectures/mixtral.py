"""Mixtral: Mistral's layers with a mixture of experts in place of each MLP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from transformers import PreTrainedConfig

from formgate.engine.layers.experts import ExpertsSpec
from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.spec import DecoderSpec
from formgate.kernels.experts.choose_experts import Choice


class MixtralForCausalLM(CausalLM):
    renamed: ClassVar[Mapping[str, tuple[str, str | None]]] = {
        **CausalLM.renamed,
        "w1": ("gate_up_proj", "gate"),
        "w3": ("gate_up_proj", "up"),
        "w2": ("down_proj", None),
    }
    renamed_parts: ClassVar[Mapping[str, str]] = {"block_sparse_moe": "mlp"}

    @classmethod
    def read_spec(cls, config: PreTrainedConfig) -> DecoderSpec:
        spec = super().read_spec(config)
        experts = ExpertsSpec(
            num_experts=config.num_local_experts,
            intermediate_size=config.intermediate_size,
            choice=Choice(top_k=config.num_experts_per_tok, renormalize=True),
        )
        window = config.sliding_window or 0
        return replace(spec, experts=experts, sliding_windows=(window,) * spec.num_layers)
