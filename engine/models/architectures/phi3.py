"""Phi-3 and Phi-4: the checkpoints already stack query, key and value, and gate and up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.model_config import ModelConfig
from formgate.engine.models.spec import DecoderSpec


class Phi3ForCausalLM(CausalLM):
    defaults: ClassVar[Mapping[str, Any]] = {
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-05,
        "eos_token_id": 32000,
    }

    @classmethod
    def derive_fields(cls, fields: dict[str, Any]) -> None:
        super().derive_fields(fields)
        rope = fields["rope_parameters"]
        if rope["rope_type"] in ("su", "yarn"):  # old names
            rope["rope_type"] = "longrope"

    @classmethod
    def read_spec(cls, config: ModelConfig) -> DecoderSpec:
        spec = super().read_spec(config)
        return replace(spec, sliding_windows=(config.sliding_window or 0,) * spec.num_layers)
