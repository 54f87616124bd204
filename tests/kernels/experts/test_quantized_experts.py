"""The grouped products over quantized matrices, beside those over what they mean."""

import pytest
import torch

from formgate.kernels.experts.expert_linear import expert_linear_ref, expert_linear_triton
from formgate.kernels.experts.gate import PLAIN_GATE, Gate
from formgate.kernels.experts.quantized_weights import (
    ExpertWeights,
    PackedExperts,
    ScaledExperts,
    dense_weights,
)
from formgate.kernels.experts.sort_by_expert import sort_by_expert_ref
from formgate.kernels.quantized.packed_weight import pack_weight

EXPERTS, INPUTS, OUTPUTS = 3, 160, 72


def scaled(device, dtype: torch.dtype, columns: int) -> ScaledExperts:
    values = torch.randint(-7, 8, (EXPERTS, OUTPUTS, INPUTS), device=device).to(dtype)
    groups = -(-INPUTS // columns)
    scales = torch.rand(EXPERTS, OUTPUTS, groups, device=device) + 0.5
    return ScaledExperts(values, scales, columns)


def packed(device, bits: int, group: int) -> PackedExperts:
    experts = []
    for _ in range(EXPERTS):
        shape = (INPUTS // group, OUTPUTS)
        values = torch.randint(0, 2**bits, (OUTPUTS, INPUTS), dtype=torch.uint8, device=device)
        scales = torch.rand(shape, device=device).half() / 2**bits
        zeros = torch.randint(0, 2**bits, shape, dtype=torch.uint8, device=device)
        experts.append(pack_weight(values, scales, zeros, bits))
    words = torch.stack([one.words for one in experts])
    return PackedExperts(words, torch.stack([one.groups for one in experts]), INPUTS, bits)


WEIGHTS = {
    "fp8, channel": lambda device: scaled(device, torch.float8_e4m3fn, INPUTS),
    "fp8, blocks": lambda device: scaled(device, torch.float8_e4m3fn, 64),
    "int8": lambda device: scaled(device, torch.int8, INPUTS),
    "4 bits": lambda device: packed(device, 4, 32),
    "4 bits, one group": lambda device: packed(device, 4, INPUTS),
    "8 bits": lambda device: packed(device, 8, 32),
}


@pytest.mark.parametrize("make", WEIGHTS.values(), ids=WEIGHTS.keys())
@pytest.mark.parametrize(
    ("gated", "gate"), [(True, PLAIN_GATE), (True, Gate(1.702, 7.0)), (False, PLAIN_GATE)]
)
@pytest.mark.parametrize("block", [16, 64])
def test_against_dense_weights(device, assert_close, make, gated, gate, block) -> None:
    weights: ExpertWeights = make(device)
    experts = torch.stack([torch.randperm(EXPERTS)[:2] for _ in range(30)]).int().to(device)
    order = sort_by_expert_ref(experts, EXPERTS, block)
    x = torch.randn(30 if gated else 60, INPUTS, device=device).bfloat16() / 16
    bias = torch.randn(EXPERTS, OUTPUTS, device=device).bfloat16()
    args = {"top_k": 2, "gated": gated, "bias": bias, "gate": gate}
    found = expert_linear_triton(x, weights, order, **args)
    dense = dense_weights(weights, torch.float64)
    exact = expert_linear_ref(x.double(), dense, order, **args | {"bias": bias.double()})
    assert_close(found, exact, torch.bfloat16, float(exact.abs().max()))
    assert_close(
        expert_linear_ref(x, weights, order, **args),
        exact,
        torch.bfloat16,
        float(exact.abs().max()),
    )
