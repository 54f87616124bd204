"""Fills the pending input ids of a step from the tokens that the previous step sampled, without a
round trip to the CPU. An id of `-1 - r` stands for the token sampled in row `r`.
"""

import torch

from formgate.kernels.jit import tl, triton

BLOCK = 256


def fill_pending_ref(input_ids: torch.Tensor, sampled: torch.Tensor) -> None:
    """input_ids int64 [n], changed in place; sampled int64 [rows], all >= 0"""
    rows = (-1 - input_ids).clamp_(min=0)
    input_ids.copy_(torch.where(input_ids < 0, sampled.index_select(0, rows), input_ids))


@triton.jit(do_not_specialize=["n"])  # one variant for every number of tokens
def _fill_pending_kernel(input_ids_ptr, sampled_ptr, n, BLOCK: tl.constexpr) -> None:
    tokens = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ids = tl.load(input_ids_ptr + tokens, mask=tokens < n, other=0)
    pending = ids < 0
    known = tl.load(sampled_ptr + (-1 - ids), mask=pending, other=0)
    tl.store(input_ids_ptr + tokens, known, mask=pending)


def fill_pending_triton(input_ids: torch.Tensor, sampled: torch.Tensor) -> None:
    """As `fill_pending_ref`. Both tensors must be contiguous."""
    assert input_ids.dtype == sampled.dtype == torch.int64
    assert input_ids.is_contiguous()
    assert sampled.is_contiguous()
    n = input_ids.shape[0]
    if n:
        _fill_pending_kernel[(triton.cdiv(n, BLOCK),)](input_ids, sampled, n, BLOCK=BLOCK)


def fill_pending(input_ids: torch.Tensor, sampled: torch.Tensor) -> None:
    """The Triton kernel on CUDA, `fill_pending_ref` elsewhere."""
    op = fill_pending_triton if input_ids.is_cuda else fill_pending_ref
    op(input_ids, sampled)
