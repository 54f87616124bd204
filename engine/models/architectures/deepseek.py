"""DeepSeek-V2 and V3 (also V3.1 and R1): latent attention, and a mixture of experts in all layers
but the first ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from transformers import PreTrainedConfig

from formgate.engine.attention.latent import LatentShape
from formgate.engine.layers.experts import ExpertsSpec
from formgate.engine.models.decoder import CausalLM, LayerParts
from formgate.engine.models.expert_specs import after_dense_layers, balanced_experts
from formgate.engine.models.latent_attention import LatentSelfAttention
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

    @classmethod
    def read_spec(cls, config: PreTrainedConfig) -> DecoderSpec:
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

    @staticmethod
    def read_experts(config: PreTrainedConfig) -> ExpertsSpec:
        limited = config.topk_method == "group_limited_greedy"
        choice = Choice(
            top_k=config.num_experts_per_tok,
            scale=config.routed_scaling_factor,
            groups=config.n_group if limited else 1,
            top_groups=config.topk_group if limited else 1,
        )
        return ExpertsSpec(
            num_experts=config.n_routed_experts,
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
    skips_extra_layers: ClassVar[bool] = True

    @staticmethod
    def read_experts(config: PreTrainedConfig) -> ExpertsSpec:
        return balanced_experts(config)
