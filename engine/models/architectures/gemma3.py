"""Gemma 3: as Gemma 2, but queries and keys are normalized instead of scores capped, and layers
with a sliding window have a rotary embedding of their own. Of a model with vision, the text part
is served.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from formgate.engine.models.architectures.gemma2 import Gemma2ForCausalLM
from formgate.engine.models.model_config import (
    ModelConfig,
    complete_rope,
    text_fields,
    windows_but_each,
)
from formgate.engine.models.spec import DecoderSpec, plain_spec, rope_spec, windows_by_layer_type


class Gemma3ForCausalLM(Gemma2ForCausalLM):
    defaults: ClassVar[Mapping[str, Any]] = {
        **Gemma2ForCausalLM.defaults,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "sliding_window_pattern": 6,
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
    }

    @classmethod
    def derive_fields(cls, fields: dict[str, Any]) -> None:
        windows_but_each(fields["sliding_window_pattern"], fields)
        given = fields["rope_parameters"] or {}
        full = {**(given.get("full_attention") or {}), **(fields["rope_scaling"] or {})}
        sliding = dict(given.get("sliding_attention") or {})
        fields["rope_parameters"] = {
            "full_attention": complete_rope(full, fields, fields["rope_theta"]),
            "sliding_attention": complete_rope(sliding, fields, fields["rope_local_base_freq"]),
        }

    @classmethod
    def read_spec(cls, config: ModelConfig) -> DecoderSpec:
        parameters = config.rope_parameters
        ropes = {
            kind: rope_spec(config, config.head_dim, parameters[kind])
            for kind in set(config.layer_types)
        }
        return replace(
            plain_spec(config, rope=ropes.get("full_attention")),
            qkv_bias=config.attention_bias,
            output_bias=config.attention_bias,
            output_norms=True,
            norm_offset=1.0,
            query_key_norm="head",
            embedding_scale=config.hidden_size**0.5,
            attention_scale=config.query_pre_attn_scalar**-0.5,
            logits_softcap=config.final_logit_softcapping or 0.0,
            sliding_windows=windows_by_layer_type(config),
            layer_ropes=tuple(ropes[kind] for kind in config.layer_types),
        )


class Gemma3ForConditionalGeneration(Gemma3ForCausalLM):
    @classmethod
    def read_config(cls, raw: Mapping[str, Any]) -> ModelConfig:
        return super().read_config(text_fields(raw))

    @classmethod
    def read_spec(cls, config: ModelConfig) -> DecoderSpec:
        return super().read_spec(config.get_text_config())

    def parameter_of(self, checkpoint_name: str) -> tuple[str, str | None] | None:
        if "vision_tower." in checkpoint_name or "multi_modal_projector." in checkpoint_name:
            return None
        # Two spellings are in use: language_model.model.layers and model.language_model.layers.
        name = checkpoint_name.removeprefix("language_model.")
        return super().parameter_of(name.replace("model.language_model.", "model.", 1))
