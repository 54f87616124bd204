"""One layout for every checkpoint format, also where a rank's inputs belong to odd groups."""

from __future__ import annotations

import pytest
import torch

from formgate.engine.layers.quantized.grouped import GroupedWeight, in_equal_groups
from formgate.kernels.quantized.packed_weight import can_pack, pack_weight, unpack_ref


def random_weight(groups: torch.Tensor | None, inputs: int, count: int) -> GroupedWeight:
    torch.manual_seed(1)
    return GroupedWeight(
        torch.randint(0, 16, (5, inputs)).to(torch.uint8),
        torch.rand(count, 5),
        torch.randint(0, 16, (count, 5)).to(torch.uint8),
        groups,
    )


def shuffled(inputs: int, count: int) -> torch.Tensor:
    torch.manual_seed(2)
    return (torch.arange(inputs) // (inputs // count))[torch.randperm(inputs)]


@pytest.mark.parametrize(
    ("groups", "inputs", "count", "moves"),
    [
        (None, 128, 4, False),
        (None, 48, 1, False),
        (None, 64, 4, True),  # groups of 16 are filled up to 32
        (torch.arange(128) // 32, 128, 4, False),
        (shuffled(128, 4), 128, 4, True),
        (shuffled(128, 2)[:50], 50, 2, True),  # a rank's part
        (shuffled(256, 8)[:7], 7, 8, True),  # with groups that it has no input of
    ],
)
def test_equal_groups(groups, inputs: int, count: int, moves: bool) -> None:
    weight = random_weight(groups, inputs, count)
    equal, order = in_equal_groups(weight, 4)
    assert (order is not None) == moves
    assert can_pack(equal.values.shape[1], equal.scales.shape[0], 4)
    x = torch.randn(3, inputs)
    moved = x if order is None else x[:, order]
    torch.testing.assert_close(
        moved @ equal.dequantize().t(), x @ weight.dequantize().t(), atol=1e-4, rtol=1e-4
    )
    packed = pack_weight(equal.values, equal.scales.half(), equal.zeros, 4)
    assert torch.allclose(unpack_ref(packed, torch.float32), equal.dequantize(), rtol=1e-3)
