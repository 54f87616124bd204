"""The grouped products over quantized matrices, beside those over what they mean."""

import pytest
import torch

from formgate.kernels.experts.expert_linear import expert_linear_ref, expert_linear_triton
from formgate.kernels.experts.gate import PLAIN_GATE, Gate
from formgate.kernels.experts.mxfp4 import (
    Mxfp4Experts,
    dequantize_mxfp4,
    pack_mxfp4,
    unpack_mxfp4_ref,
    unpack_mxfp4_triton,
)
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


def random_mxfp4(device, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Tensors of a checkpoint."""
    torch.manual_seed(seed)
    blocks = torch.randint(0, 256, (OUTPUTS, INPUTS // 32, 16), dtype=torch.uint8, device=device)
    scales = torch.randint(118, 126, (OUTPUTS, INPUTS // 32), dtype=torch.uint8, device=device)
    return blocks, scales


def mxfp4(device) -> Mxfp4Experts:
    packed = [pack_mxfp4(*random_mxfp4(device, seed)) for seed in range(EXPERTS)]
    return Mxfp4Experts(*(torch.stack(parts) for parts in zip(*packed, strict=True)))


WEIGHTS = {
    "mxfp4": mxfp4,
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


def test_mxfp4_means_what_its_definition_says(device) -> None:
    """Value by value, as the standard writes it; the packed form means the same."""
    blocks, scales = random_mxfp4(device)
    scales[1], scales[-1] = 0, 250  # 2 ** -127 and 2 ** 123
    exact = torch.zeros(OUTPUTS, INPUTS, dtype=torch.float64)
    for row in range(OUTPUTS):
        for column in range(INPUTS):
            byte = int(blocks[row, column // 32, column % 32 // 2])
            code = byte >> 4 if column % 2 else byte & 15
            sign, exponent, fraction = code >> 3, code >> 1 & 3, code & 1
            size = 2.0 ** (exponent - 1) * (1 + fraction / 2) if exponent else fraction / 2
            exact[row, column] = (-size if sign else size) * 2.0 ** (
                int(scales[row, column // 32]) - 127
            )
    assert torch.equal(dequantize_mxfp4(blocks, scales).double().cpu(), exact)
    packed = Mxfp4Experts(*(part.unsqueeze(0) for part in pack_mxfp4(blocks, scales)))
    for unpack in (unpack_mxfp4_ref, unpack_mxfp4_triton):
        assert torch.equal(unpack(packed, torch.float32)[0].double().cpu(), exact)
