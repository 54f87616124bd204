"""The router of a mixture-of-experts layer: which experts a token goes to, and their weights."""

from dataclasses import dataclass

import torch

from formgate.kernels.jit import tl, triton

__all__ = ["Choice", "choose_experts", "choose_experts_ref", "choose_experts_triton"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How experts are chosen. Experts lie in `groups` of equal size; only those of the
    `top_groups` best groups can be chosen (DeepSeek-V2, arXiv:2405.04434, section 2.2.2).
    """

    top_k: int
    sigmoid: bool = False  # scores by sigmoid; by softmax over all experts otherwise
    renormalize: bool = False  # weights of a token sum to 1 before they are scaled
    scale: float = 1.0
    groups: int = 1
    top_groups: int = 1
    group_sum: bool = False  # a group counts as the sum of its two best; as its best otherwise


def choose_experts_ref(
    logits: torch.Tensor, choice: Choice, correction: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """logits [n, num_experts], correction float32 [num_experts] -> weights float32 [n, top_k],
    experts int32 [n, top_k], the best first. `correction` is added to the scores for the choice,
    and not to the weights (DeepSeek-V3, arXiv:2412.19437, section 2.1.2).
    """
    scores = logits.float()
    scores = scores.sigmoid() if choice.sigmoid else scores.softmax(dim=-1)
    ranks = scores if correction is None else scores + correction
    if choice.groups > choice.top_groups:
        grouped = ranks.view(len(ranks), choice.groups, -1)
        best = grouped.topk(2).values.sum(dim=-1) if choice.group_sum else grouped.amax(dim=-1)
        kept = torch.zeros_like(best, dtype=torch.bool)
        kept.scatter_(1, best.topk(choice.top_groups).indices, True)
        ranks = grouped.masked_fill(~kept.unsqueeze(-1), -torch.inf).view_as(ranks)
    experts = ranks.topk(choice.top_k).indices
    weights = scores.gather(1, experts)
    if choice.renormalize:
        weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
    return weights * choice.scale, experts.int()


@triton.jit
def _choose_experts_kernel(
    logits_ptr,
    correction_ptr,
    weights_ptr,
    experts_ptr,
    logits_stride,
    scale,
    CORRECTED: tl.constexpr,
    SIGMOID: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    GROUP_SUM: tl.constexpr,
    GROUPS: tl.constexpr,
    TOP_GROUPS: tl.constexpr,
    SIZE: tl.constexpr,  # experts of a group
    TOP_K: tl.constexpr,
    GROUPS_POW2: tl.constexpr,
    SIZE_POW2: tl.constexpr,
    TOP_K_POW2: tl.constexpr,
) -> None:
    """One program a token, over a tile [GROUPS_POW2, SIZE_POW2]."""
    row = tl.program_id(0).to(tl.int64)
    group = tl.arange(0, GROUPS_POW2)
    member = tl.arange(0, SIZE_POW2)
    expert = group[:, None] * SIZE + member[None, :]
    inside = (group < GROUPS)[:, None] & (member < SIZE)[None, :]
    logits = tl.load(logits_ptr + row * logits_stride + expert, mask=inside, other=float("-inf"))
    logits = logits.to(tl.float32)
    if SIGMOID:
        scores = 1.0 / (1.0 + tl.exp(-logits))
    else:
        top = tl.max(tl.max(logits, axis=1), axis=0)
        scores = tl.exp(logits - top)
        scores = scores / tl.sum(tl.sum(scores, axis=1), axis=0)
    ranks = scores
    if CORRECTED:
        ranks += tl.load(correction_ptr + expert, mask=inside, other=0.0)
    # A NaN never wins: an expert that does not exist would be read far away.
    ranks = tl.where(inside & (ranks == ranks), ranks, float("-inf"))
    if GROUPS > TOP_GROUPS:
        best = tl.max(ranks, axis=1)
        if GROUP_SUM:
            first = tl.argmax(ranks, axis=1)
            rest = tl.where(member[None, :] == first[:, None], float("-inf"), ranks)
            best += tl.max(rest, axis=1)
        left = tl.where(group < GROUPS, best, float("-inf"))
        kept = group < 0
        for _ in tl.static_range(TOP_GROUPS):
            found = group == tl.argmax(left, axis=0)
            kept = kept | found
            left = tl.where(found, float("-inf"), left)
        ranks = tl.where(kept[:, None], ranks, float("-inf"))

    left = tl.reshape(ranks, (GROUPS_POW2 * SIZE_POW2,))
    scores = tl.reshape(scores, (GROUPS_POW2 * SIZE_POW2,))
    at = tl.arange(0, GROUPS_POW2 * SIZE_POW2)
    slot = tl.arange(0, TOP_K_POW2)
    weights = tl.zeros((TOP_K_POW2,), tl.float32)
    experts = tl.zeros((TOP_K_POW2,), tl.int32)
    for i in tl.static_range(TOP_K):
        found = tl.argmax(left, axis=0)
        weights = tl.where(slot == i, tl.sum(tl.where(at == found, scores, 0.0), axis=0), weights)
        number = found // SIZE_POW2 * SIZE + found % SIZE_POW2
        experts = tl.where(slot == i, number.to(tl.int32), experts)
        left = tl.where(at == found, float("-inf"), left)
    if RENORMALIZE:
        weights = weights / (tl.sum(weights, axis=0) + 1e-20)
    out = row * TOP_K + slot
    tl.store(weights_ptr + out, weights * scale, mask=slot < TOP_K)
    tl.store(experts_ptr + out, experts, mask=slot < TOP_K)


def choose_experts_triton(
    logits: torch.Tensor, choice: Choice, correction: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `choose_experts_ref`; of equal scores, the lower expert comes first."""
    n, num_experts = logits.shape
    assert logits.stride(1) == 1
    assert num_experts % choice.groups == 0
    assert choice.top_k <= num_experts // choice.groups * choice.top_groups
    size = num_experts // choice.groups
    weights = torch.empty((n, choice.top_k), dtype=torch.float32, device=logits.device)
    experts = torch.empty((n, choice.top_k), dtype=torch.int32, device=logits.device)
    if n:
        _choose_experts_kernel[(n,)](
            logits,
            correction,
            weights,
            experts,
            logits.stride(0),
            choice.scale,
            CORRECTED=correction is not None,
            SIGMOID=choice.sigmoid,
            RENORMALIZE=choice.renormalize,
            GROUP_SUM=choice.group_sum,
            GROUPS=choice.groups,
            TOP_GROUPS=choice.top_groups,
            SIZE=size,
            TOP_K=choice.top_k,
            GROUPS_POW2=triton.next_power_of_2(choice.groups),
            SIZE_POW2=triton.next_power_of_2(size),
            TOP_K_POW2=triton.next_power_of_2(choice.top_k),
            num_warps=1 if num_experts <= 128 else 4,
        )
    return weights, experts


def choose_experts(
    logits: torch.Tensor, choice: Choice, correction: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The Triton kernel on CUDA, `choose_experts_ref` elsewhere."""
    choose = choose_experts_triton if logits.is_cuda else choose_experts_ref
    return choose(logits, choice, correction)
