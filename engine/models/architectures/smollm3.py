"""SmolLM3: some layers know no positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from formgate.engine.layers.rotary import no_rope
from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.model_config import ModelConfig, check_layer_lists
from formgate.engine.models.spec import DecoderSpec, windows_by_layer_type


class SmolLM3ForCausalLM(CausalLM):
    defaults: ClassVar[Mapping[str, Any]] = {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rope_theta": 2000000.0,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "no_rope_layers": None,
        "no_rope_layer_interval": 4,
        "eos_token_id": 128001,
    }

    @classmethod
    def derive_fields(cls, fields: dict[str, Any]) -> None:
        super().derive_fields(fields)
        if fields["no_rope_layers"] is None:
            interval = fields["no_rope_layer_interval"]
            fields["no_rope_layers"] = [
                int((layer + 1) % interval != 0) for layer in range(fields["num_hidden_layers"])
            ]
        check_layer_lists(fields)
        if fields["layer_types"] is None:
            windowed = fields["use_sliding_window"] and fields["sliding_window"] is not None
            fields["layer_types"] = [
                "sliding_attention" if windowed and not rotates else "full_attention"
                for rotates in fields["no_rope_layers"]
            ]

    @classmethod
    def read_spec(cls, config: ModelConfig) -> DecoderSpec:
        spec = super().read_spec(config)
        return replace(
            spec,
            qkv_bias=config.attention_bias,
            output_bias=config.attention_bias,
            mlp_bias=config.mlp_bias,
            layer_ropes=tuple(
                spec.rope if rotates else no_rope(spec.rope) for rotates in config.no_rope_layers
            ),
            sliding_windows=windows_by_layer_type(config) if config.use_sliding_window else (),
        )
