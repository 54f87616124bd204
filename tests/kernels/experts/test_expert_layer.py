"""Sorting by expert, the grouped products and their sum, alone and one after the other."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from formgate.kernels.experts.combine_experts import combine_experts_ref, combine_experts_triton
from formgate.kernels.experts.expert_linear import (
    block_rows,
    expert_linear_grouped,
    expert_linear_ref,
    expert_linear_triton,
)
from formgate.kernels.experts.finish_rows import finish_rows_ref, finish_rows_triton
from formgate.kernels.experts.gate import PLAIN_GATE, Gate, gated_ref
from formgate.kernels.experts.sort_by_expert import (
    sort_by_expert,
    sort_by_expert_ref,
    sort_by_expert_triton,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def chosen(device, tokens: int, experts: int, top_k: int) -> torch.Tensor:
    rows = [torch.randperm(experts)[:top_k] for _ in range(tokens)]
    return torch.stack(rows).int().to(device)


CASES = {
    "one token": lambda device: (chosen(device, 1, 8, 2), 8),
    "few": lambda device: (chosen(device, 5, 8, 2), 8),
    "more than a block each": lambda device: (chosen(device, 70, 4, 3), 4),
    "many experts": lambda device: (chosen(device, 9, 60, 6), 60),
    "all to one": lambda device: (torch.full((40, 1), 3, dtype=torch.int32, device=device), 5),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@cases
@pytest.mark.parametrize("share", [(0, 1.0), (0, 0.5), (1, 0.5)], ids=["all", "lower", "upper"])
def test_sorted_pairs(device, case, share) -> None:
    """Both ways agree, and each block has the pairs of its expert, in the tokens' order."""
    experts, number = case(device)
    held = max(int(number * share[1]), 1)
    first = share[0] * (number - held)
    for sort in (sort_by_expert_ref, sort_by_expert_triton):
        order = sort(experts, held, 16, first)
        flat = experts.flatten().tolist()
        wanted = [[i for i, e in enumerate(flat) if e == first + n] for n in range(held)]
        ends = [0, *order.ends.tolist()]
        pairs = order.pairs.tolist()
        assert [pairs[a:b] for a, b in itertools.pairwise(ends)] == wanted
        assert sorted(pairs) == list(range(len(flat)))
        assert [pairs[at] for at in order.positions.tolist()] == list(range(len(flat)))
        blocks = [
            (expert, start)
            for expert, end in enumerate(ends[1:])
            for start in range(ends[expert], end, 16)
        ]
        owners = order.block_experts.tolist()
        assert owners[len(blocks) :] == [-1] * (len(owners) - len(blocks))
        starts = order.block_starts.tolist()[: len(blocks)]
        assert list(zip(owners, starts, strict=False)) == blocks


@cases
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products_against_their_reference(device, assert_close, case, dtype) -> None:
    experts, number = case(device)
    tokens, top_k = experts.shape
    order = sort_by_expert(experts, number, block_rows(experts.numel(), number))
    x = torch.randn(tokens, 72, device=device).to(dtype)
    gate_up = torch.randn(number, 2 * 50, 72, device=device).to(dtype)
    args = {"top_k": top_k, "gated": True}
    hidden = expert_linear_triton(x, gate_up, order, **args)
    scale = 72.0
    exact = expert_linear_ref(x.double(), gate_up.double(), order, **args)
    assert_close(hidden, exact, dtype, scale)
    down = torch.randn(number, 90, 50, device=device).to(dtype)
    args["gated"] = False
    rows = torch.randn(experts.numel(), 50, device=device).to(dtype)
    out = expert_linear_triton(rows, down, order, **args)
    assert_close(
        out, expert_linear_ref(rows.double(), down.double(), order, **args), dtype, 50**0.5
    )


CLAMPED = Gate(alpha=1.702, limit=7.0)


@cases
@pytest.mark.parametrize("gate", [PLAIN_GATE, CLAMPED], ids=["plain", "clamped"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_biases_and_gates(device, assert_close, case, gate, dtype) -> None:
    experts, number = case(device)
    top_k = experts.shape[1]
    order = sort_by_expert(experts, number, 16)
    x = torch.randn(len(experts), 40, device=device).to(dtype)
    gate_up = torch.randn(number, 2 * 50, 40, device=device).to(dtype)
    bias = 9 * torch.randn(number, 2 * 50, device=device).to(dtype)
    args = {"top_k": top_k, "gated": True, "gate": gate}
    exact = expert_linear_ref(x.double(), gate_up.double(), order, bias=bias.double(), **args)
    assert_close(expert_linear_triton(x, gate_up, order, bias=bias, **args), exact, dtype, 90.0)
    down = torch.randn(number, 72, 40, device=device).to(dtype)
    rows = torch.randn(experts.numel(), 40, device=device).to(dtype)
    args = {"top_k": top_k, "gated": False, "bias": bias[:, :72].contiguous()}
    out = expert_linear_triton(rows, down, order, **args)
    owners = torch.repeat_interleave(
        torch.arange(number, device=device), order.ends.diff(prepend=order.ends.new_zeros(1))
    )
    for row, owner in enumerate(owners.tolist()):
        wanted = down[owner].double() @ rows[row].double() + bias[owner, :72].double()
        assert_close(out[row], wanted, dtype, 30.0)


def test_the_clamped_gate_is_its_definition() -> None:
    gates = torch.tensor([-20.0, -1.0, 0.0, 6.5, 7.0, 50.0], dtype=torch.float64)
    ups = torch.tensor([3.0, -9.0, 8.0, -7.5, 0.0, 100.0], dtype=torch.float64)
    found = gated_ref(torch.cat([gates, ups]).unsqueeze(0), CLAMPED)[0]
    for gate, up, one in zip(gates.tolist(), ups.tolist(), found.tolist(), strict=True):
        gate, up = min(gate, 7.0), min(max(up, -7.0), 7.0)
        assert one == pytest.approx((up + 1) * gate / (1 + math.exp(-1.702 * gate)))


@pytest.mark.parametrize("block", [16, 32, 64, 128])
@pytest.mark.parametrize("gated", [True, False])
def test_every_block_size(device, assert_close, block, gated) -> None:
    experts = chosen(device, 150, 4, 2)
    order = sort_by_expert_ref(experts, 4, block)
    x = torch.randn(150 if gated else 300, 64, device=device).bfloat16()
    weight = torch.randn(4, 140, 64, device=device).bfloat16()
    out = expert_linear_triton(x, weight, order, top_k=2, gated=gated)
    exact = expert_linear_ref(x.double(), weight.double(), order, top_k=2, gated=gated)
    assert_close(out, exact, torch.bfloat16, 64.0 if gated else 8.0)


@cases
def test_the_grouped_product(device, assert_close, case) -> None:
    experts, number = case(device)
    order = sort_by_expert(experts, number, 16)
    args = {"top_k": experts.shape[1], "gated": True}
    x = torch.randn(len(experts), 72, device=device).bfloat16()
    gate_up = torch.randn(number, 2 * 48, 72, device=device).bfloat16()
    exact = expert_linear_ref(x.double(), gate_up.double(), order, **args)
    assert_close(expert_linear_grouped(x, gate_up, order, **args), exact, torch.bfloat16, 72.0)
    args["gated"] = False
    rows = torch.randn(experts.numel(), 48, device=device).bfloat16()
    down = torch.randn(number, 88, 48, device=device).bfloat16()
    exact = expert_linear_ref(rows.double(), down.double(), order, **args)
    assert_close(expert_linear_grouped(rows, down, order, **args), exact, torch.bfloat16, 48**0.5)


@cases
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("gate", [PLAIN_GATE, CLAMPED], ids=["plain", "clamped"])
@pytest.mark.parametrize("finish", [finish_rows_ref, finish_rows_triton])
def test_what_follows_the_grouped_product(device, assert_close, case, gated, gate, finish) -> None:
    """With the product it is the layer's product with biases and gates."""
    experts, number = case(device)
    order = sort_by_expert(experts, number - 1, 16, 1)  # the first expert is another rank's
    top_k, held = experts.shape[1], int(order.ends[-1])
    x = torch.randn(len(experts) if gated else experts.numel(), 40, device=device)
    weight = torch.randn(number - 1, 2 * 48, 40, device=device)
    bias = 9 * torch.randn(number - 1, 2 * 48, device=device)
    args = {"top_k": top_k, "gated": gated}
    exact = expert_linear_ref(
        x.double(), weight.double(), order, bias=bias.double(), gate=gate, **args
    )
    rows = x[(order.pairs // top_k).long()] if gated else x
    owners = torch.searchsorted(
        order.ends, torch.arange(held, device=device, dtype=torch.int32), right=True
    )
    product = torch.zeros(len(rows), 2 * 48, device=device)
    product[:held] = torch.einsum("noi,ni->no", weight[owners], rows[:held])
    out = finish(product, order.ends, bias, gated=gated, gate=gate)
    assert_close(out[:held], exact[:held], torch.float32, 90.0)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sum_against_its_reference(device, assert_close, dtype, shared) -> None:
    experts = chosen(device, 7, 12, 3)
    order = sort_by_expert_triton(experts, 6, 16, 3)  # half of the experts are another rank's
    x = torch.randn(21, 1100, device=device).to(dtype)
    x[order.ends[-1] :] = torch.nan  # rows that nobody wrote
    weights = torch.rand(7, 3, device=device)
    extra = torch.randn(7, 1100, device=device).to(dtype) if shared else None
    out = combine_experts_triton(x, weights, order, extra)
    wide = None if extra is None else extra.double()
    assert_close(out, combine_experts_ref(x.double(), weights, order, wide), dtype, 2.0)


def test_the_layer_is_a_sum_over_tokens(device, assert_close) -> None:
    """All steps together against the definition, one token at a time."""
    experts = chosen(device, 33, 6, 2)
    weights = torch.rand(33, 2, device=device)
    x = torch.randn(33, 48, device=device)
    gate_up, down = torch.randn(6, 64, 48, device=device), torch.randn(6, 48, 32, device=device)
    expected = torch.zeros(33, 48, dtype=torch.float64, device=device)
    for token, row in enumerate(experts.tolist()):
        for i, expert in enumerate(row):
            gate, up = (gate_up[expert].double() @ x[token].double()).chunk(2)
            product = down[expert].double() @ (F.silu(gate) * up)
            expected[token] += weights[token, i].double() * product
    order = sort_by_expert_triton(experts, 6, 16)
    hidden = expert_linear_triton(x, gate_up, order, top_k=2, gated=True)
    out = expert_linear_triton(hidden, down, order, top_k=2, gated=False)
    assert_close(combine_experts_triton(out, weights, order), expected, torch.float32, 500.0)


def test_a_token_does_not_see_the_others(device) -> None:
    experts = chosen(device, 20, 4, 2)
    x = torch.randn(20, 64, device=device).bfloat16()
    weight = torch.randn(4, 80, 64, device=device).bfloat16()
    order = sort_by_expert_triton(experts, 4, 16)
    together = expert_linear_triton(x, weight, order, top_k=2, gated=True)
    x[1:] = torch.nan
    again = expert_linear_triton(x, weight, order, top_k=2, gated=True)
    mine = order.positions[:2].long()
    assert torch.equal(again[mine], together[mine])


def test_no_tokens(device) -> None:
    order = sort_by_expert(torch.zeros(0, 2, dtype=torch.int32, device=device), 4, 16)
    weight = torch.randn(4, 80, 64, device=device)
    out = expert_linear_triton(
        torch.randn(0, 64, device=device), weight, order, top_k=2, gated=True
    )
    assert out.shape == (0, 40)
