"""The dense layers of DeepSeek-V2 and V3. The published checkpoints have mixture-of-experts layers,
too, and are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from transformers import PreTrainedConfig

from formgate.engine.attention.latent import LatentShape
from formgate.engine.models.decoder import CausalLM, LayerParts
from formgate.engine.models.latent_attention import LatentSelfAttention
from formgate.engine.models.spec import DecoderSpec, UnsupportedModelError


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
        if config.first_k_dense_replace < spec.num_layers:
            raise UnsupportedModelError(
                f"mixture-of-experts layers are not supported yet (the config has "
                f"{spec.num_layers - config.first_k_dense_replace})"
            )
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
            qkv_bias=config.attention_bias,
            output_bias=config.attention_bias,
            attention_scale=head_dim**-0.5 * _yarn_scale(spec) ** 2,
        )


def _yarn_scale(spec: DecoderSpec) -> float:
    """YaRN's growth of the attention scores with the context, as DeepSeek applies it."""
    rope = spec.rope
    if rope.kind == "default" or not rope.mscale_all_dim or rope.factor <= 1:
        return 1.0
    return 0.1 * rope.mscale_all_dim * math.log(rope.factor) + 1.0


class DeepseekV3ForCausalLM(DeepseekV2ForCausalLM):
    def parameter_of(self, checkpoint_name: str) -> tuple[str, str | None] | None:
        parts = checkpoint_name.split(".")
        if parts[:2] == ["model", "layers"] and int(parts[2]) >= self.spec.num_layers:
            return None  # of the multi-token prediction module
        return super().parameter_of(checkpoint_name)
