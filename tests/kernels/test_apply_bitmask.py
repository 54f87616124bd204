import math

import pytest
import torch

from formgate.kernels.apply_bitmask import apply_bitmask, apply_bitmask_ref, apply_bitmask_triton


@pytest.mark.parametrize("op", [apply_bitmask_ref, apply_bitmask_triton, apply_bitmask])
@pytest.mark.parametrize("vocab", [1, 31, 32, 100, 2100])
@pytest.mark.parametrize("rows", [None, [2, 0], []])
def test_forbidden_tokens_become_minus_infinity(device, op, vocab, rows):
    words = -(-vocab // 32) + 1
    logits = torch.randn(4, vocab + 9, device=device)[:, :vocab]  # a view, as the sampler passes
    bitmask = torch.randint(-(2**31), 2**31, (4, words), dtype=torch.int64).int()
    expected = logits.clone()
    for row in range(4) if rows is None else rows:
        for token in range(vocab):
            if not int(bitmask[row, token >> 5]) >> (token & 31) & 1:
                expected[row, token] = -math.inf
    index = None if rows is None else torch.tensor(rows, dtype=torch.int64, device=device)
    op(logits, bitmask.to(device), index)
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("op", [apply_bitmask_ref, apply_bitmask_triton])
def test_nan_and_infinity_of_allowed_tokens_survive(device, op):
    logits = torch.tensor([[math.nan, math.inf, math.inf, -math.inf]], device=device)
    op(logits, torch.tensor([[0b1011]], dtype=torch.int32, device=device))
    assert logits[0, 0].isnan()
    assert logits[0, 1:].tolist() == [math.inf, -math.inf, -math.inf]
