"""Gemma 3: as Gemma 2, but queries and keys are normalized instead of scores capped, and layers
with a sliding window have a rotary embedding of their own. Of a model with vision, the text part
is served.
"""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedConfig

from formgate.engine.models.architectures.gemma2 import Gemma2ForCausalLM
from formgate.engine.models.spec import DecoderSpec, plain_spec, rope_spec, windows_by_layer_type


class Gemma3ForCausalLM(Gemma2ForCausalLM):
    @classmethod
    def read_spec(cls, config: PreTrainedConfig) -> DecoderSpec:
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
    def read_spec(cls, config: PreTrainedConfig) -> DecoderSpec:
        return super().read_spec(config.get_text_config())

    def parameter_of(self, checkpoint_name: str) -> tuple[str, str | None] | None:
        if "vision_tower." in checkpoint_name or "multi_modal_projector." in checkpoint_name:
            return None
        # Two spellings are in use: language_model.model.layers and model.language_model.layers.
        name = checkpoint_name.removeprefix("language_model.")
        return super().parameter_of(name.replace("model.language_model.", "model.", 1))
