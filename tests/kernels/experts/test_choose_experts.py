import pytest
import torch

from formgate.kernels.experts.choose_experts import (
    Choice,
    choose_experts,
    choose_experts_ref,
    choose_experts_triton,
)

CHOICES = {
    "mixtral": (8, Choice(top_k=2, renormalize=True)),
    "one of one": (1, Choice(top_k=1)),
    "qwen": (60, Choice(top_k=4)),
    "qwen3": (128, Choice(top_k=8, renormalize=True)),
    "deepseek-v2": (40, Choice(top_k=6, groups=8, top_groups=3, scale=16.0)),
    "deepseek-v3": (
        64,
        Choice(
            top_k=8,
            sigmoid=True,
            renormalize=True,
            scale=2.5,
            groups=8,
            top_groups=4,
            group_sum=True,
        ),
    ),
    "sigmoid, one group": (33, Choice(top_k=3, sigmoid=True, renormalize=True)),
}
choices = pytest.mark.parametrize(("experts", "choice"), CHOICES.values(), ids=CHOICES.keys())


@choices
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("corrected", [False, True], ids=["plain", "corrected"])
def test_against_the_reference(device, experts, choice, dtype, corrected) -> None:
    # All logits differ, in bfloat16 too.
    logits = torch.stack([torch.randperm(experts) for _ in range(9)]).to(device, dtype) / 16
    correction = torch.rand(experts, device=device) if corrected else None
    weights, ids = choose_experts_triton(logits, choice, correction)
    expected_weights, expected_ids = choose_experts_ref(logits, choice, correction)
    assert ids.dtype == torch.int32
    assert torch.equal(ids, expected_ids)
    torch.testing.assert_close(weights, expected_weights, rtol=1e-5, atol=1e-6)


@choices
def test_tied_routers_choose_different_experts_that_exist(device, experts, choice) -> None:
    _, ids = choose_experts_triton(torch.zeros(5, experts, device=device), choice)
    for row in ids.tolist():
        assert len(set(row)) == choice.top_k
        assert all(0 <= expert < experts for expert in row)


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:All-NaN")  # of the interpreter
@choices
def test_nan_stays_inside(device, experts, choice) -> None:
    logits = torch.full((2, experts), torch.nan, device=device)
    _, ids = choose_experts_triton(logits, choice)
    assert ids.min() >= 0
    assert ids.max() < experts


def test_rows_of_a_wider_tensor_and_none(device) -> None:
    choice = Choice(top_k=2)
    wide = torch.randn(3, 16, device=device)
    ids = choose_experts(wide[:, :8], choice)[1]
    assert torch.equal(ids, choose_experts(wide[:, :8].contiguous(), choice)[1])
    assert choose_experts_triton(wide[:0, :8], choice)[1].shape == (0, 2)
