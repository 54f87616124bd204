"""From a config to a spec: what the cache and the scheduler read of it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from formgate.engine.layers.experts import ExpertLinear
from formgate.engine.layers.parallel import TensorParallel
from formgate.engine.layers.quantized.config import read_quantization
from formgate.engine.layers.storage import DenseMethod
from formgate.engine.loading.weights import load_model_config
from formgate.engine.models.registry import ARCHITECTURES, build_model, model_spec
from formgate.engine.models.spec import UnsupportedModelError

SHAPE = {
    "vocab_size": 131,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "eos_token_id": 2,
}


def named(config: PreTrainedConfig) -> PreTrainedConfig:
    """As `save_pretrained` would have written it."""
    config.architectures = [type(config).__name__.removesuffix("Config") + "ForCausalLM"]
    return config


# config.json as published (fields that matter here, in the spelling of the time), and the model's
# published number of parameters.
PUBLISHED: dict[str, tuple[dict[str, object], int]] = {
    "Llama-3.1-8B": (
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": 128256,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "rope_theta": 500000.0,
            "rope_scaling": {
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "eos_token_id": [128001, 128008, 128009],
        },
        8_030_261_248,
    ),
    "Mistral-7B-v0.1": (
        {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 32768,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
            "torch_dtype": "bfloat16",
        },
        7_241_732_096,
    ),
    "Qwen2.5-7B": (
        {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
            "max_window_layers": 28,
            "rope_theta": 1000000.0,
            "rope_scaling": {
                "factor": 4.0,
                "original_max_position_embeddings": 32768,
                "type": "yarn",
            },
            "sliding_window": 131072,
            "use_sliding_window": False,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        },
        7_615_616_512,
    ),
    "gemma-2-9b": (
        {
            "architectures": ["Gemma2ForCausalLM"],
            "model_type": "gemma2",
            "vocab_size": 256000,
            "hidden_size": 3584,
            "intermediate_size": 14336,
            "num_hidden_layers": 42,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 256,
            "max_position_embeddings": 8192,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
            "torch_dtype": "float32",
        },
        9_241_705_984,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_give_the_published_size(name: str, tmp_path: Path) -> None:
    published, parameters = PUBLISHED[name]
    (tmp_path / "config.json").write_text(json.dumps(published))
    config = load_model_config(tmp_path)
    model = build_model(config, torch.bfloat16, torch.device("meta"))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    spec = model_spec(config)
    kinds = {"Llama-3.1-8B": "llama3", "Qwen2.5-7B": "yarn"}
    assert model.spec.rope.kind == kinds.get(name, "default")
    assert model.spec.rope.theta == published["rope_theta"]
    assert spec.max_position == (131072 if name in kinds else published["max_position_embeddings"])
    assert spec.sliding_window == (4096 if name.startswith("Mistral") else 0)


GPT_OSS_20B = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "attention_bias": True,
    "eos_token_id": 200002,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2880,
    "initial_context_length": 4096,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "max_position_embeddings": 131072,
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "quantization_config": {
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
        "quant_method": "mxfp4",
    },
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "vocab_size": 201088,
}


def test_gpt_oss_as_published(tmp_path: Path) -> None:
    """Its size (20.91 billion parameters, arXiv:2508.10925, table 1), and its tensors in MXFP4."""
    (tmp_path / "config.json").write_text(json.dumps(GPT_OSS_20B))
    config = load_model_config(tmp_path)
    meta = torch.device("meta")
    dense = DenseMethod()
    model = build_model(config, torch.bfloat16, meta)
    experts = [layer for layer in model.modules() if isinstance(layer, ExpertLinear)]
    tensors = [part for layer in experts for one in layer.parts for part in one.values()]
    total = sum(tensor.numel() for tensor in (*model.parameters(), *tensors))
    assert round(total / 1e9, 2) == 20.91
    assert model.spec.window_of(0) == 128
    assert model.spec.window_of(1) == 0
    assert not model.spec.rope.truncate
    assert model_spec(config).max_position == 131072
    quantization = read_quantization(
        config.quantization_config, None, dense=dense, dtype=torch.bfloat16, device=meta
    )
    model = build_model(
        config, torch.bfloat16, meta, parallel=TensorParallel(1, 4), quantization=quantization
    )
    mlp = model.get_submodule("model.layers.3.mlp.experts")
    shapes = {
        name: [tuple(tensor.shape) for tensor in getattr(mlp, name).parts[31].values()]
        for name in ("gate_up_proj", "down_proj")
    }
    # A quarter of 2880 inner features is 22.5 groups, so that each rank holds up to 23.
    assert shapes["gate_up_proj"] == [(2 * 736, 90, 16), (2 * 736, 90), (2 * 736,)]
    assert shapes["down_proj"] == [(2880, 23, 16), (2880, 23), (2880,)]
    for name in ("gate_up_proj_blocks", "down_proj_scales", "gate_up_proj_bias"):
        checkpoint = f"model.layers.3.mlp.experts.{name}"
        target = model.parameter_of(checkpoint)
        assert target is not None
        assert target[0] in dict(model.named_parameters())
        assert model.checkpoint_name_of(*target) == checkpoint


def test_model_spec_says_what_the_cache_needs() -> None:
    spec = model_spec(named(MistralConfig(**SHAPE, sliding_window=6, head_dim=32)))
    assert (spec.num_layers, spec.num_kv_heads, spec.num_heads, spec.head_dim) == (3, 2, 4, 32)
    assert (spec.hidden_size, spec.vocab_size, spec.max_position) == (64, 131, 64)
    assert spec.sliding_window == 6
    assert spec.eos_token_ids == (2,)


def test_a_model_with_one_full_layer_keeps_all_keys() -> None:
    config = Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=5, max_window_layers=1)
    assert model_spec(named(config)).sliding_window == 0


def test_yarn_reaches_past_the_original_length() -> None:
    rope = {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    assert model_spec(named(LlamaConfig(**SHAPE, rope_parameters=rope))).max_position == 256


@pytest.mark.parametrize(("eos", "ids"), [(None, ()), (3, (3,)), ([3, 5], (3, 5))])
def test_eos_token_ids(eos: int | list[int] | None, ids: tuple[int, ...]) -> None:
    config = named(LlamaConfig(**{**SHAPE, "eos_token_id": eos}))
    assert model_spec(config).eos_token_ids == ids


def test_an_unsupported_architecture_names_the_supported_ones() -> None:
    config = GPT2Config(architectures=["GPT2LMHeadModel"])
    with pytest.raises(UnsupportedModelError) as error:
        build_model(config, torch.float32, torch.device("cpu"))
    assert "GPT2LMHeadModel" in str(error.value)
    assert all(name in str(error.value) for name in ARCHITECTURES)
    assert "\n" not in str(error.value)


def test_unsupported_rope_scaling_is_refused() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    with pytest.raises(UnsupportedModelError, match="dynamic"):
        model_spec(named(LlamaConfig(**SHAPE, rope_parameters=rope)))


def test_unsupported_activation_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="relu"):
        model_spec(named(LlamaConfig(**SHAPE, hidden_act="relu")))
