"""Our reading of config.json against transformers' own: the same decoder from the same file,
whatever the file leaves out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, PreTrainedConfig

from formgate.engine.loading.weights import WeightsError, load_model_config
from formgate.engine.models.registry import ARCHITECTURES, model_spec

MODEL_TYPES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Phi3ForCausalLM": "phi3",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3_text",
    "Gemma3ForConditionalGeneration": "gemma3",
    "SmolLM3ForCausalLM": "smollm3",
    "GraniteForCausalLM": "granite",
    "Olmo2ForCausalLM": "olmo2",
    "Cohere2ForCausalLM": "cohere2",
    "DeepseekV2ForCausalLM": "deepseek_v2",
    "DeepseekV3ForCausalLM": "deepseek_v3",
    "MixtralForCausalLM": "mixtral",
    "Qwen2MoeForCausalLM": "qwen2_moe",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "Glm4MoeForCausalLM": "glm4_moe",
    "GptOssForCausalLM": "gpt_oss",
}
SCALED = {"rope_type": "linear", "factor": 4.0}
LLAMA3 = {
    "type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
# Fields that a config.json may hold beside its architecture; all others are left out.
GIVEN: dict[str, dict[str, Any]] = {
    "nothing": {},
    "sizes": {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "num_hidden_layers": 9,
    },
    "no_groups": {"num_key_value_heads": None, "num_attention_heads": 16},
    "head_dim": {"head_dim": 80},
    "null_window": {"sliding_window": None},
    "window": {"sliding_window": 77, "use_sliding_window": True, "max_window_layers": 3},
    "old_rope": {"rope_theta": 12345.0, "rope_scaling": SCALED},
    "null_rope": {"rope_theta": 54321.0, "rope_scaling": None},
    "old_llama3": {"rope_scaling": LLAMA3, "max_position_embeddings": 4096},
    "partial": {"partial_rotary_factor": 0.5},
    "pattern": {"sliding_window_pattern": 3, "num_hidden_layers": 7},
    "dtype": {"torch_dtype": "float16", "eos_token_id": [3, 5]},
    "both_dtypes": {"dtype": "float32", "torch_dtype": "float16"},
    "untied": {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
    "tied": {"tie_word_embeddings": True, "vocab_size": 1000},
    "no_caps": {"attn_logit_softcapping": None, "final_logit_softcapping": 20.0},
    "positions": {"no_rope_layer_interval": 2, "num_hidden_layers": 6},
    "scales": {"logits_scaling": 8.0, "embedding_multiplier": 12, "query_pre_attn_scalar": 144},
    "eps": {"rms_norm_eps": 3e-6, "layer_norm_eps": 2e-6},
    "experts": {
        **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 16),
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 320,
    },
    "ignored": {"bos_token_id": 1, "use_cache": False, "quantization_config": {"bits": 4}},
}
# What transformers refuses, or does not read although the file says it.
DIFFERS = {
    ("Phi3ForCausalLM", "old_rope"): "only the kind longrope is known there",
    ("Phi3ForCausalLM", "old_llama3"): "only the kind longrope is known there",
    ("MistralForCausalLM", "no_groups"): "null is refused there",
    ("MixtralForCausalLM", "no_groups"): "null is refused there",
    ("Qwen3MoeForCausalLM", "no_groups"): "null is refused there",
    ("Glm4MoeForCausalLM", "no_groups"): "null is refused there",
    ("GptOssForCausalLM", "no_groups"): "null is refused there",
    ("Gemma2ForCausalLM", "no_groups"): "null is refused there",
    ("Gemma3ForCausalLM", "no_groups"): "null is refused there",
    ("Gemma3ForConditionalGeneration", "no_groups"): "null is refused there",
    ("Gemma3ForCausalLM", "old_llama3"): "the old key `type` is passed over there",
    ("Gemma3ForConditionalGeneration", "old_llama3"): "the old key `type` is passed over there",
    ("DeepseekV3ForCausalLM", "head_dim"): "it would turn more dimensions than there are",
}


def config_json(architecture: str, given: dict[str, Any]) -> dict[str, Any]:
    whole = {"architectures": [architecture], "model_type": MODEL_TYPES[architecture]}
    if architecture == "Glm4MoeForCausalLM":
        given = {"head_dim": 128, **given}  # the default sizes give no whole number
    if architecture != "Gemma3ForConditionalGeneration":
        return {**whole, **given}
    shared = ("eos_token_id", "dtype", "torch_dtype", "quantization_config")
    text = {name: value for name, value in given.items() if name not in shared}
    above = {name: given[name] for name in shared if name in given}
    return {**whole, **above, "text_config": {"model_type": "gemma3_text", **text}}


def test_every_architecture_is_compared() -> None:
    assert MODEL_TYPES.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize(
    ("architecture", "name"),
    [(model, name) for model in MODEL_TYPES for name in GIVEN if (model, name) not in DIFFERS],
)
def test_the_same_decoder_as_from_transformers(
    architecture: str, name: str, tmp_path: Path
) -> None:
    raw = config_json(architecture, GIVEN[name])
    (tmp_path / "config.json").write_text(json.dumps(raw))
    theirs: PreTrainedConfig = AutoConfig.from_pretrained(tmp_path)
    if architecture == "DeepseekV2ForCausalLM" and theirs.num_experts_per_tok is None:
        theirs.num_experts_per_tok = 6  # of the published models; there it has no usable default
    ours = load_model_config(tmp_path)
    model = ARCHITECTURES[architecture]
    assert model.read_spec(ours) == model.read_spec(theirs)
    assert ours.dtype is theirs.dtype
    eos = getattr(theirs, "eos_token_id", None)
    if eos is None and architecture == "Gemma3ForConditionalGeneration":
        eos = theirs.get_text_config().eos_token_id
    assert ours.eos_token_id == eos
    assert model_spec(ours).vocab_size == theirs.get_text_config().vocab_size


@pytest.mark.parametrize("architecture", MODEL_TYPES)
def test_a_file_that_transformers_wrote(architecture: str, tmp_path: Path) -> None:
    raw = config_json(architecture, {**GIVEN["sizes"], **GIVEN["dtype"], **GIVEN["old_rope"]})
    if architecture == "Phi3ForCausalLM":
        raw = config_json(architecture, {**GIVEN["sizes"], **GIVEN["dtype"]})
    (tmp_path / "config.json").write_text(json.dumps(raw))
    theirs = AutoConfig.from_pretrained(tmp_path)
    if architecture == "DeepseekV2ForCausalLM":
        theirs.num_experts_per_tok = 6
    theirs.save_pretrained(tmp_path)
    model = ARCHITECTURES[architecture]
    ours = load_model_config(tmp_path)
    assert model.read_spec(ours) == model.read_spec(theirs)
    assert ours.dtype is torch.float16


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("hidden_size", "wide", "a positive integer"),
        ("hidden_size", 0, "a positive integer"),
        ("hidden_size", None, "a positive integer"),
        ("hidden_size", True, "a positive integer"),
        ("vocab_size", 2**60, "a positive integer"),
        ("num_hidden_layers", 10**9, "which no model has"),
        ("num_key_value_heads", 3, "does not divide 32 heads"),
        ("num_experts_per_tok", "two", "a positive integer"),
        ("num_attention_heads", 31, "does not divide"),
        ("rms_norm_eps", "small", "a number"),
        ("rms_norm_eps", float("nan"), "a number"),
        ("tie_word_embeddings", "yes", "true or false"),
        ("hidden_act", 3, "a string"),
        ("rope_scaling", [1], "an object"),
        ("rope_theta", "big", "a number"),
        ("eos_token_id", ["<eos>"], "an id or a list of ids"),
        ("layer_types", "full", "a list of strings"),
        ("layer_types", ["full_attention"], "1 entries for 32 layers"),
        ("dtype", "float99", "torch does not know"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object, kind: str, tmp_path: Path) -> None:
    raw = config_json("Qwen2ForCausalLM", {"num_attention_heads": 32, field: value})
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(WeightsError, match=r"config\.json") as error:
        load_model_config(tmp_path)
    assert field.removeprefix("num_attention_") in str(error.value)
    assert kind in str(error.value)
    assert "\n" not in str(error.value)


def test_a_field_that_nobody_set_is_no_attribute(tmp_path: Path) -> None:
    raw = config_json("LlamaForCausalLM", {"quantization_config": {"bits": 4}})
    (tmp_path / "config.json").write_text(json.dumps(raw))
    config = load_model_config(tmp_path)
    assert config.quantization_config == {"bits": 4}
    assert getattr(config, "kv_lora_rank", None) is None


def test_the_engine_starts_without_importing_transformers() -> None:
    code = "import sys, formgate.engine.loop; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_experts_per_tok": 9}, "num_experts_per_tok is 9, .* among 8 experts"),
        ({"n_group": 3}, "n_group is 3, which does not divide 8 experts"),
        ({"n_group": 2, "topk_group": 4}, "topk_group is 4, more than the 2 groups"),
        (
            {"n_group": 4, "topk_group": 1, "num_experts_per_tok": 3},
            "num_experts_per_tok is 3, .* among 2 experts",
        ),
    ],
)
def test_a_choice_that_the_experts_do_not_allow(fields, message, tmp_path: Path) -> None:
    raw = config_json(
        "DeepseekV3ForCausalLM", {"n_routed_experts": 8, "n_group": 1, "topk_group": 1}
    )
    (tmp_path / "config.json").write_text(json.dumps(raw | fields))
    with pytest.raises(WeightsError, match=message):
        load_model_config(tmp_path)
