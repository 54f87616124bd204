"""Gemma 2: norms around each block, capped logits, scaled embeddings, and a sliding window in every
other layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.model_config import ModelConfig, windows_but_each
from formgate.engine.models.spec import DecoderSpec, windows_by_layer_type


class Gemma2ForCausalLM(CausalLM):
    renamed: ClassVar[Mapping[str, tuple[str, str | None]]] = {
        **CausalLM.renamed,
        "post_attention_layernorm": ("attention_output_norm", None),
        "pre_feedforward_layernorm": ("post_attention_layernorm", None),
        "post_feedforward_layernorm": ("mlp_output_norm", None),
    }

    defaults: ClassVar[Mapping[str, Any]] = {
        "vocab_size": 256000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_act": None,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "final_logit_softcapping": 30.0,
        "attn_logit_softcapping": 50.0,
        "eos_token_id": 1,
    }

    @classmethod
    def derive_fields(cls, fields: dict[str, Any]) -> None:
        super().derive_fields(fields)
        windows_but_each(2, fields)

    @classmethod
    def read_spec(cls, config: ModelConfig) -> DecoderSpec:
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
