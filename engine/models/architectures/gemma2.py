"""Gemma 2: norms around each block, capped logits, scaled embeddings, and a sliding window in every
other layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from transformers import PreTrainedConfig

from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.spec import DecoderSpec, windows_by_layer_type


class Gemma2ForCausalLM(CausalLM):
    renamed: ClassVar[Mapping[str, tuple[str, str | None]]] = {
        **CausalLM.renamed,
        "post_attention_layernorm": ("attention_output_norm", None),
        "pre_feedforward_layernorm": ("post_attention_layernorm", None),
        "post_feedforward_layernorm": ("mlp_output_norm", None),
    }

    @classmethod
    def read_spec(cls, config: PreTrainedConfig) -> DecoderSpec:
        return replace(
            super().read_spec(config),
            activation=config.hidden_activation,
            qkv_bias=config.attention_bias,
            output_bias=config.attention_bias,
            output_norms=True,
            norm_offset=1.0,
            embedding_scale=config.hidden_size**0.5,
            attention_scale=config.query_pre_attn_scalar**-0.5,
            attention_softcap=config.attn_logit_softcapping or 0.0,
            logits_softcap=config.final_logit_softcapping or 0.0,
            sliding_windows=windows_by_layer_type(config),
        )
