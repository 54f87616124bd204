"""The sum of a token's experts by their weights, and of the experts that all tokens share."""

import torch

from formgate.kernels.experts.sort_by_expert import SortedPairs
from formgate.kernels.jit import is_float_tensor, tl, triton

__all__ = ["combine_experts", "combine_experts_ref", "combine_experts_triton"]

BLOCK = 1024


def combine_experts_ref(
    x: torch.Tensor,
    weights: torch.Tensor,
    order: SortedPairs,
    shared: torch.Tensor | None = None,
) -> torch.Tensor:
    """x [n * top_k, d] by position of `order`, weights float32 [n, top_k], shared [n, d], added if
    given -> [n, d]. Positions of no expert of this rank count as 0.
    """
    n, top_k = weights.shape
    positions = order.positions.long()
    held = positions < order.ends[-1]
    parts = x[positions].float() * weights.flatten().unsqueeze(-1)
    parts = parts.where(held.unsqueeze(-1), 0.0)
    total = parts.view(n, top_k, -1).sum(dim=1)
    return (total if shared is None else total + shared.float()).to(x.dtype)


@triton.jit
def _combine_experts_kernel(
    x_ptr,
    weights_ptr,
    positions_ptr,
    last_end_ptr,
    shared_ptr,
    out_ptr,
    size,
    HAS_SHARED: tl.constexpr,
    TOP_K: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    held = tl.load(last_end_ptr)
    total = tl.zeros((BLOCK,), tl.float32)
    for i in tl.static_range(TOP_K):
        position = tl.load(positions_ptr + token * TOP_K + i) + tl.zeros((BLOCK,), tl.int32)
        weight = tl.load(weights_ptr + token * TOP_K + i)
        at = x_ptr + position.to(tl.int64) * size + columns
        part = tl.load(at, mask=inside & (position < held), other=0.0)
        total += part.to(tl.float32) * weight
    if HAS_SHARED:
        total += tl.load(shared_ptr + token * size + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + token * size + columns, total.to(out_ptr.dtype.element_ty), mask=inside)


def combine_experts_triton(
    x: torch.Tensor,
    weights: torch.Tensor,
    order: SortedPairs,
    shared: torch.Tensor | None = None,
) -> torch.Tensor:
    """As `combine_experts_ref`."""
    n, top_k = weights.shape
    size = x.shape[1]
    assert is_float_tensor(x)
    assert x.is_contiguous()
    assert weights.is_contiguous()
    assert x.shape[0] == n * top_k
    assert shared is None or (shared.shape == (n, size) and shared.is_contiguous())
    out = torch.empty((n, size), dtype=x.dtype, device=x.device)
    if n:
        _combine_experts_kernel[(n, triton.cdiv(size, BLOCK))](
            x,
            weights,
            order.positions,
            order.ends[-1:],
            shared,
            out,
            size,
            HAS_SHARED=shared is not None,
            TOP_K=top_k,
            BLOCK=BLOCK,
        )
    return out


def combine_experts(
    x: torch.Tensor,
    weights: torch.Tensor,
    order: SortedPairs,
    shared: torch.Tensor | None = None,
) -> torch.Tensor:
    """The Triton kernel on CUDA, `combine_experts_ref` elsewhere."""
    combine = combine_experts_triton if x.is_cuda else combine_experts_ref
    return combine(x, weights, order, shared)
