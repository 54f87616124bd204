"""DeepSeek-V2 and V3 (also V3.1 and R1): latent attention, and a mixture of experts in all layers
but the first ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from formgate.engine.attention.latent import LatentShape
from formgate.engine.layers.experts import ExpertsSpec
from formgate.engine.models.decoder import CausalLM, LayerParts
from formgate.engine.models.expert_specs import (
    after_dense_layers,
    balanced_experts,
    count_experts,
    expert_count,
)
from formgate.engine.models.latent_attention import LatentSelfAttention
from formgate.engine.models.model_config import ModelConfig
from formgate.engine.models.spec import DecoderSpec
from formgate.kernels.experts.choose_experts import Choice


class DeepseekV2ForCausalLM(CausalLM):
    parts: ClassVar[LayerParts] = LayerParts(attention=LatentSelfAttention)
    renamed: ClassVar[Mapping[str, tuple[str, str | None]]] = {
        **CausalLM.renamed,
        "q_proj": ("a_proj", "q"),
        "q_a_proj": ("a_proj", "q"),
        "kv_a_proj_with_mqa": ("a_proj", "kv"),
    }

    num_experts: ClassVar[int] = 64  # if the config does not say
    defaults: ClassVar[Mapping[str, Any]] = {
        "kv_lora_rank": 512,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "rope_interleave": True,
        "eos_token_id": 2,
        "vocab_size": 102400,
        "first_k_dense_replace": 0,
        "n_group": None,
        "topk_group": None,
        "topk_method": "greedy",
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
        "moe_intermediate_size": 1407,
        "routed_scaling_factor": 1.0,
    }

    @classmethod
    def derive_fields(cls, fields: dict[str, Any]) -> None:
        super().derive_fields(fields)
        fields["head_dim"] = fields["qk_rope_head_dim"]  # which the rotary embedding turns
        if fields["num_experts_per_tok"] is None:  # in files of models that have no such layer
            fields["num_experts_per_tok"] = cls.defaults["num_experts_per_tok"]
        count_experts(fields, cls.num_experts)

    @classmethod
    def read_spec(cls, config: ModelConfig) -> DecoderSpec:
        spec = super().read_spec(config)
        head_dim = config.qk_nope_head_dim + config.qk_rope_head_dim
        shape = LatentShape(
            latent_dim=config.kv_lora_rank,
            head_dim=config.qk_nope_head_dim,
            rotary_dim=config.qk_rope_head_dim,
            value_dim=config.v_head_dim,
            query_latent_dim=config.q_lora_rank,
        )
        rope = replace(spec.rope, interleaved=getattr(config, "rope_interleave", True))
        return replace(
            spec,
            rope=rope,
            latent=shape,
            experts=cls.read_experts(config),
            expert_layers=after_dense_layers(config),
            qkv_bias=config.attention_bias,
            output_bias=config.attention_bias,
            attention_scale=head_dim**-0.5 * _yarn_scale(spec) ** 2,
        )

    @classmethod
    def read_experts(cls, config: ModelConfig) -> ExpertsSpec:
        limited = config.topk_method == "group_limited_greedy"
        choice = Choice(
            top_k=config.num_experts_per_tok,
            scale=config.routed_scaling_factor,
            groups=config.n_group if limited else 1,
            top_groups=config.topk_group if limited else 1,
        )
        return ExpertsSpec(
            num_experts=expert_count(config),
            intermediate_size=config.moe_intermediate_size,
            choice=choice,
            float32_router=True,
            shared_size=config.moe_intermediate_size * (config.n_shared_experts or 0),
        )


def _yarn_scale(spec: DecoderSpec) -> float:
    """YaRN's growth of the attention scores with the context, as DeepSeek applies it."""
    rope = spec.rope
    if rope.kind == "default" or not rope.mscale_all_dim or rope.factor <= 1:
        return 1.0
    return 0.1 * rope.mscale_all_dim * math.log(rope.factor) + 1.0


class DeepseekV3ForCausalLM(DeepseekV2ForCausalLM):
    num_experts: ClassVar[int] = 256
    skips_extra_layers: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, Any]] = {
        **DeepseekV2ForCausalLM.defaults,
        "vocab_size": 129280,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "max_position_embeddings": 4096,
        "first_k_dense_replace": 3,
        "n_group": 8,
        "topk_group": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 2048,
        "routed_scaling_factor": 2.5,
        "norm_topk_prob": True,
        "eos_token_id": 1,
    }

    @classmethod
    def read_experts(cls, config: ModelConfig) -> ExpertsSpec:
        return balanced_experts(config)
