"""gpt-oss (arXiv:2508.10925): attention sinks, a sliding window in every other layer, and experts
with biases and a clamped gate, whose weights are published in MXFP4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from formgate.engine.layers.experts import ExpertsSpec
from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.expert_specs import count_experts, expert_count
from formgate.engine.models.model_config import ModelConfig, windows_but_each
from formgate.engine.models.spec import DecoderSpec, windows_by_layer_type
from formgate.kernels.experts.choose_experts import Choice
from formgate.kernels.experts.gate import Gate

# Of one tensor for all experts: the end of its name -> the parameter's name here.
_STACKED = {"": "weight", "_bias": "bias", "_blocks": "blocks", "_scales": "scales"}


class GptOssForCausalLM(CausalLM):
    renamed: ClassVar[Mapping[str, tuple[str, str | None]]] = {
        "q_proj": ("qkv_proj", "q"),
        "k_proj": ("qkv_proj", "k"),
        "v_proj": ("qkv_proj", "v"),
        "router": ("gate", None),
    }

    defaults: ClassVar[Mapping[str, Any]] = {
        "vocab_size": 201088,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_hidden_layers": 36,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "sliding_window": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 150_000.0,
        "attention_bias": True,
        "num_experts_per_tok": 4,
        "swiglu_alpha": 1.702,
        "swiglu_limit": 7.0,
    }

    @classmethod
    def derive_fields(cls, fields: dict[str, Any]) -> None:
        if fields["rope_parameters"] is None and fields["rope_scaling"] is None:
            fields["rope_parameters"] = {
                "rope_type": "yarn",
                "factor": 32.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 4096,
            }
        super().derive_fields(fields)
        windows_but_each(2, fields)
        count_experts(fields, 128)

    @classmethod
    def read_spec(cls, config: ModelConfig) -> DecoderSpec:
        experts = ExpertsSpec(
            num_experts=expert_count(config),
            intermediate_size=config.intermediate_size,
            # Softmax over the chosen ones.
            choice=Choice(top_k=config.num_experts_per_tok, renormalize=True),
            gate=Gate(config.swiglu_alpha, config.swiglu_limit),
            biases=True,
            stacked=True,
        )
        return replace(
            super().read_spec(config),
            qkv_bias=config.attention_bias,
            output_bias=config.attention_bias,
            attention_sinks=True,
            sliding_windows=windows_by_layer_type(config),
            experts=experts,
        )

    def parameter_of(self, checkpoint_name: str) -> tuple[str, str | None] | None:
        path, _, tensor = checkpoint_name.rpartition(".")
        if path.endswith(".experts"):
            for end, here in _STACKED.items():
                for matrix in ("gate_up_proj", "down_proj"):
                    if tensor == matrix + end:
                        return f"{path}.{matrix}.{here}", None
        return super().parameter_of(checkpoint_name)

    def checkpoint_name_of(self, parameter: str, shard: str | None) -> str:
        path, _, tensor = parameter.rpartition(".")
        if ".experts." in path:
            ends = {here: end for end, here in _STACKED.items()}
            return path + ends[tensor]
        return super().checkpoint_name_of(parameter, shard)
