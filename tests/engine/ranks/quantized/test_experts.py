"""Quantized experts: a checkpoint answers what its dequantized twin does."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import MixtralConfig, PreTrainedConfig, Qwen2MoeConfig

from formgate.engine.layers.quantized import expert_weights
from formgate.engine.layers.quantized.config import Quantization
from formgate.engine.layers.quantized.dequantized import DequantizedMethod
from formgate.engine.layers.quantized.eight_bit import EightBitFormat, EightBitMethod
from formgate.engine.layers.quantized.grouped import GroupedFormat, GroupedMethod
from tests.engine.ranks.quantized.tiny_llama import SHAPE

CONFIGS: dict[str, PreTrainedConfig] = {
    "mixtral": MixtralConfig(**SHAPE, num_local_experts=5, sliding_window=None),
    "qwen2_moe": Qwen2MoeConfig(
        **SHAPE,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        shared_expert_intermediate_size=64,
    ),
}
NAMES = ["awq", "gptq, desc_act", "packed, 8 bits", "float-quantized, channel", "fp8, blocks"]


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> PreTrainedConfig:
    return CONFIGS[request.param]


@pytest.mark.parametrize("name", NAMES)
def test_one_rank_and_two(
    schemes, save_twins, tmp_path: Path, threads, engine_of, answers, same, name, config
) -> None:
    quantized, twin = save_twins(schemes[name], tmp_path, (), config)
    expected = answers(engine_of(twin))
    assert same(answers(engine_of(quantized)), expected)
    assert same(answers(engine_of(quantized, tensor_parallel_size=2)), expected)
    whole = {"tensor_parallel_size": 2, "enable_expert_parallel": True}
    assert same(answers(engine_of(quantized, **whole)), expected)
    found = answers(engine_of(quantized, load_format="dummy"))
    assert all(len(tokens) == 10 for tokens, _ in found)


@pytest.mark.parametrize("name", NAMES)
def test_weights_stay_quantized(
    schemes, save_twins, tmp_path: Path, engine_of, answers, same, monkeypatch, name, config
) -> None:
    """As on a GPU; the activations are not quantized."""

    def method(self: Quantization, stored):
        if isinstance(stored, GroupedFormat):
            return GroupedMethod(stored)
        dense = DequantizedMethod(stored, self.dense, self.dtype)
        return dense if not isinstance(stored, EightBitFormat) else OnlyExperts(stored)

    class OnlyExperts(EightBitMethod):
        def finish_loading(self, tensors) -> None:
            bias = tensors.get("bias")
            weight = self.format.dequantize(tensors)
            tensors.clear()
            tensors["weight"] = weight
            if bias is not None:
                tensors["bias"] = bias

        def apply(self, tensors, x):
            return x @ tensors["weight"].t() + tensors.get("bias", 0)

    monkeypatch.setattr(Quantization, "_method", method)
    monkeypatch.setattr(expert_weights, "on_gpu", lambda experts: True)
    quantized, twin = save_twins(schemes[name], tmp_path, (), config)
    assert same(answers(engine_of(quantized)), answers(engine_of(twin)))
