"""SmolLM3: some layers know no positions."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedConfig

from formgate.engine.layers.rotary import no_rope
from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.spec import DecoderSpec, windows_by_layer_type


class SmolLM3ForCausalLM(CausalLM):
    @classmethod
    def read_spec(cls, config: PreTrainedConfig) -> DecoderSpec:
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
