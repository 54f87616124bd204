import math

import pytest
import torch

from formgate.kernels.sample_tokens import (
    BROKEN,
    sample_tokens,
    sample_tokens_ref,
    sample_tokens_triton,
)

OPS = {"ref": sample_tokens_ref, "triton": sample_tokens_triton, "dispatched": sample_tokens}
ops = pytest.mark.parametrize("op", OPS.values(), ids=OPS.keys())


def logits_of(rows, vocab, device, spread=2.0):
    # A view of a padded tensor, as the sampler passes.
    padded = torch.randn(rows, vocab + 13, device=device) * spread
    padded[:, vocab:] = 1e3
    return padded[:, :vocab]


def columns(device, rows, **values):
    dtypes = {"top_k": torch.int64}
    return {
        name: torch.tensor(
            value if isinstance(value, list) else [value] * rows,
            dtype=dtypes.get(name, torch.float32),
            device=device,
        )
        for name, value in values.items()
    }


def expected_token(row, uniform, temperature, top_k, top_p, min_p):
    """By the definition, in float64; and whether rounding may make it another."""
    row = row.double().cpu()
    probs = ((row - row.max()) / temperature).softmax(0)
    ordered = probs.sort(descending=True).values
    lowest = 0.0
    if top_k < len(row):
        lowest = ordered[top_k - 1].item()
    left = ordered[ordered >= lowest]
    if top_p < 1.0:
        before = left.cumsum(0) - left
        lowest = left[before < top_p * left.sum()][-1:].min().item() if top_p else left[0].item()
    lowest = max(lowest, min_p * ordered[0].item())
    kept = torch.where(probs >= lowest, probs, 0.0)
    cumulative = kept.cumsum(0)
    target = uniform * cumulative[-1]
    token = int((cumulative > target).nonzero()[0])
    gap = (cumulative - target).abs().min() / cumulative[-1]
    return token, bool(gap < 1e-5), kept


@ops
@pytest.mark.parametrize("vocab", [5, 131, 4096, 5001])
@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"top_k": 4},
        {"top_p": 0.8},
        {"min_p": 0.2},
        {"top_k": 5, "top_p": 0.6, "min_p": 0.05},
        {"top_p": 0.0},
    ],
    ids=str,
)
def test_the_token_is_the_definitions(device, op, vocab, limits):
    rows = 3
    logits = logits_of(rows, vocab, device)
    uniform = torch.rand(rows, device=device).clamp_(max=1 - 2**-23)
    temperatures = [0.7, 1.0, 1.6]
    given = columns(device, rows, temperature=temperatures, **limits)
    found = op(logits, uniform, **given).tolist()
    full = {"top_k": vocab, "top_p": 1.0, "min_p": 0.0} | limits
    for row in range(rows):
        token, unsure, kept = expected_token(
            logits[row], uniform[row].item(), temperatures[row], **full
        )
        assert kept[found[row]] > 0
        assert unsure or found[row] == token


@ops
def test_greedy_and_drawn_rows_share_a_batch(device, op):
    logits = logits_of(4, 9001, device)
    logits[2, 17] = logits[2, 8000] = logits[2].max() + 1.0
    given = columns(device, 4, temperature=[0.0, 1.0, 0.0, 1e-30], top_k=[7, 9001, 9001, 9001])
    found = op(logits, torch.full((4,), 0.99, device=device), **given)
    best = logits.max(dim=-1).indices
    assert found[0] == best[0]
    assert found[2] == 17
    assert found[3] == best[3]


@ops
def test_forbidden_tokens_are_never_drawn(device, op):
    rows, vocab = 8, 5001
    logits = logits_of(rows, vocab, device)
    allowed = torch.randint(0, vocab, (rows, 3), device=device)
    masked = torch.full_like(logits, -math.inf)
    masked.scatter_(1, allowed, logits.gather(1, allowed))
    uniform = torch.tensor([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1 - 2**-23], device=device)
    for limits in ({}, {"top_p": 0.9, "top_k": 50}):
        given = columns(device, rows, temperature=1.3, **limits)
        found = op(masked, uniform, **given)
        assert masked.gather(1, found.unsqueeze(1)).isfinite().all()


@ops
def test_a_broken_row_is_told_and_touches_no_other(device, op):
    logits = logits_of(6, 5000, device)
    given = columns(device, 6, temperature=[0.0, 1.0, 1.0, 0.0, 1.0, 1.0], top_p=0.9)
    uniform = torch.rand(6, device=device)
    healthy = op(logits, uniform, **given).tolist()
    logits[0, 4999] = math.nan
    logits[1] = math.nan
    logits[2, 0] = math.nan
    logits[3] = -math.inf
    logits[4, 77] = math.inf
    found = op(logits, uniform, **given).tolist()
    assert found[:5] == [BROKEN] * 5
    assert found[5] == healthy[5]


@ops
def test_ties_with_the_last_kept_token_are_kept(device, op):
    logits = torch.full((16, 300), -5.0, device=device)
    logits[:, 100:104] = 3.0
    uniform = torch.arange(16, device=device) / 16
    found = op(logits, uniform, **columns(device, 16, temperature=1.0, top_k=4)).tolist()
    assert set(found) == {100, 101, 102, 103}
    assert found == sorted(found)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_full_vocabulary_of_random_rows():
    device = torch.device("cuda")
    logits = logits_of(64, 131_072, device, spread=3.0)
    uniform = torch.rand(64, device=device)
    for limits in ({}, {"top_p": 0.95, "top_k": 50}, {"top_p": 0.9}):
        given = columns(device, 64, temperature=1.0, **limits)
        ours, theirs = (op(logits, uniform, **given) for op in (sample_tokens, sample_tokens_ref))
        assert (ours == theirs).float().mean() > 0.95
