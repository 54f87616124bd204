"""The dense layers of DeepSeek-V2 and V3. The published checkpoints have mixture-of-experts layers,
too, and are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from formgate.engine.attention.latent import LatentShape
from formgate.engine.models.decoder import CausalLM, LayerParts
from formgate.engine.models.latent_attention import LatentSelfAttention
from formgate.engine.models.model_config import ModelConfig
from formgate.engine.models.spec import DecoderSpec, UnsupportedModelError


class DeepseekV2ForCausalLM(CausalLM):
    parts: ClassVar[LayerParts] = LayerParts(attention=LatentSelfAttention)
    renamed: ClassVar[Mapping[str, tuple[str, str | None]]] = {
        **CausalLM.renamed,
        "q_proj": ("a_proj", "q"),
        "q_a_proj": ("a_proj", "q"),
        "kv_a_proj_with_mqa": ("a_proj", "kv"),
    }

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
    }

    @classmethod
    def derive_fields(cls, fields: dict[str, Any]) -> None:
        super().derive_fields(fields)
        fields["head_dim"] = fields["qk_rope_head_dim"]  # which the rotary embedding turns

    @classmethod
    def read_spec(cls, config: ModelConfig) -> DecoderSpec:
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
        "eos_token_id": 1,
    }

    def parameter_of(self, checkpoint_name: str) -> tuple[str, str | None] | None:
        parts = checkpoint_name.split(".")
        if parts[:2] == ["model", "layers"] and int(parts[2]) >= self.spec.num_layers:
            return None  # of the multi-token prediction module
        return super().parameter_of(checkpoint_name)
