"""gpt-oss as published: experts in MXFP4 answer what their dequantized twin does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GptOssConfig

from formgate.engine.errors import EngineStartError
from formgate.engine.layers.quantized import expert_weights
from formgate.engine.layers.quantized.config import read_quantization
from formgate.engine.layers.storage import DenseMethod
from formgate.engine.loading.weights import WeightsError

# Of 160 inner features, five groups, one rank of two holds three and the other two.
CONFIG = GptOssConfig(
    vocab_size=131,
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    num_local_experts=5,
    num_experts_per_tok=2,
    sliding_window=6,
    max_position_embeddings=64,
    eos_token_id=2,
    pad_token_id=0,
    initializer_range=0.3,
)
DECLARED = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
}
STEPS = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[experts, out, in] -> blocks, scales, and the weight that they mean"""
    groups = weight.unflatten(-1, (-1, 32))
    exponents = (groups.abs().amax(-1).log2().floor() - 2).clamp(-127)
    scaled = groups / 2.0 ** exponents.unsqueeze(-1)
    codes = (scaled.abs().unsqueeze(-1) - STEPS).abs().argmin(-1)
    meant = STEPS[codes] * scaled.sign() * 2.0 ** exponents.unsqueeze(-1)
    codes = codes + 8 * (scaled < 0)
    blocks = codes[..., 0::2] | codes[..., 1::2] << 4
    return blocks.to(torch.uint8), (exponents + 127).to(torch.uint8), meant.flatten(-2)


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of the quantized checkpoint and of the dequantized one."""
    quantized, twin = (tmp_path_factory.mktemp(name) for name in ("mxfp4", "twin"))
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(twin)
    tensors = load_file(twin / "model.safetensors")
    stored = dict(tensors)
    for name, tensor in tensors.items():
        if name.endswith(("gate_up_proj", "down_proj")):
            blocks, scales, meant = quantize(tensor.transpose(1, 2))
            del stored[name]
            stored |= {f"{name}_blocks": blocks.contiguous(), f"{name}_scales": scales}
            tensors[name] = meant.transpose(1, 2).contiguous()
    save_file(tensors, twin / "model.safetensors")
    save_file(stored, quantized / "model.safetensors")
    config = json.loads((twin / "config.json").read_text())
    (quantized / "config.json").write_text(json.dumps(config | {"quantization_config": DECLARED}))
    return quantized, twin


def test_one_rank_and_two(twins, threads, engine_of, answers, same) -> None:
    quantized, twin = twins
    expected = answers(engine_of(twin))
    assert same(answers(engine_of(quantized)), expected)
    for size in (2, 4):  # of four, the last one holds padding alone
        assert same(answers(engine_of(quantized, tensor_parallel_size=size)), expected)
    whole = {"tensor_parallel_size": 2, "enable_expert_parallel": True}
    assert same(answers(engine_of(quantized, **whole)), expected)
    found = answers(engine_of(quantized, load_format="dummy"))
    assert all(len(tokens) == 10 for tokens, _ in found)


def test_weights_stay_at_four_bits(twins, threads, engine_of, answers, same, monkeypatch) -> None:
    """As on a GPU."""
    monkeypatch.setattr(expert_weights, "on_gpu", lambda experts: True)
    quantized, twin = twins
    expected = answers(engine_of(twin))
    assert same(answers(engine_of(quantized)), expected)
    assert same(answers(engine_of(quantized, tensor_parallel_size=2)), expected)


def test_a_lost_tensor_is_named(twins, tmp_path: Path, engine_of) -> None:
    quantized, _ = twins
    tensors = load_file(quantized / "model.safetensors")
    lost = "model.layers.1.mlp.experts.down_proj_scales"
    del tensors[lost]
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((quantized / "config.json").read_text())
    with pytest.raises(WeightsError, match=lost):
        engine_of(tmp_path)


def test_inputs_that_are_no_whole_groups(twins, tmp_path: Path, engine_of) -> None:
    quantized, _ = twins
    config = json.loads((quantized / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 150}))
    with pytest.raises(EngineStartError, match=r"groups of 32 inputs, .* 150 of them"):
        engine_of(tmp_path, load_format="dummy")


def test_which_modules_are_quantized() -> None:
    left = ["model.layers.*.self_attn", "lm_head", "layers.1.mlp.experts"]
    quantization = read_quantization(
        DECLARED | {"modules_to_not_convert": left},
        None,
        dense=DenseMethod(),
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    assert quantization is not None
    chosen = {
        name: quantization.choose(f"model.layers.{name}") is not None
        for name in ("0.mlp.experts.3.up_proj", "1.mlp.experts.3.up_proj", "0.mlp.router")
    }
    assert list(chosen.values()) == [True, False, False]
    assert quantization.choose("model.layers.7.self_attn.q_proj") is None
