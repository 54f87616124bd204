"""Root-mean-square normalization of rows (arXiv:1910.07467), alone or fused with the addition of a
residual. Sums are float32 for every input dtype. One program normalizes a row in its registers.
"""

import torch
import torch.nn.functional as F

from formgate.kernels.jit import is_float_tensor, tl, triton

MAX_ROW = 65536  # elements of a row that one program can hold


def rms_norm_ref(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x [n, d], weight [d] of any float dtype -> [n, d] in x's dtype"""
    if x.dtype == weight.dtype == torch.float32:
        return F.rms_norm(x, weight.shape, weight, eps)
    return F.rms_norm(x.float(), weight.shape, weight.float(), eps).to(x.dtype)


def add_rms_norm_ref(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(norm(x + residual), x + residual). The sum is rounded to x's dtype before it is normalized,
    so that the result equals the unfused one.
    """
    summed = x + residual
    return rms_norm_ref(summed, weight, eps), summed


@triton.jit
def _rms_norm_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    normed_ptr,
    summed_ptr,
    x_stride,
    residual_stride,
    row_size,
    eps,
    ADD: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < row_size
    x = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        x += tl.load(residual_ptr + row * residual_stride + columns, mask=inside, other=0.0).to(
            tl.float32
        )
        summed = x.to(summed_ptr.dtype.element_ty)
        tl.store(summed_ptr + row * row_size + columns, summed, mask=inside)
        x = summed.to(tl.float32)
    inverse = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / row_size + eps)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    normed = (x * inverse * weight).to(normed_ptr.dtype.element_ty)
    tl.store(normed_ptr + row * row_size + columns, normed, mask=inside)


def _launch(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    n, d = x.shape
    assert is_float_tensor(x)
    assert is_float_tensor(weight)
    assert x.stride(1) == 1
    assert weight.shape == (d,)
    assert weight.is_contiguous()
    assert d <= MAX_ROW, f"a row of {d} elements does not fit into one program"
    normed = torch.empty((n, d), dtype=x.dtype, device=x.device)
    summed = normed
    if residual is not None:
        assert residual.shape == x.shape
        assert residual.dtype == x.dtype
        assert residual.stride(1) == 1
        summed = torch.empty_like(normed)
    block = triton.next_power_of_2(d)
    if n:
        _rms_norm_kernel[(n,)](
            x,
            x if residual is None else residual,
            weight,
            normed,
            summed,
            x.stride(0),
            x.stride(0) if residual is None else residual.stride(0),
            d,
            eps,
            ADD=residual is not None,
            BLOCK=block,
            num_warps=min(max(block // 512, 1), 16),
        )
    return normed, summed


def rms_norm_triton(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """As `rms_norm_ref`. Rows must be contiguous and have at most MAX_ROW elements."""
    return _launch(x, None, weight, eps)[0]


def add_rms_norm_triton(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `add_rms_norm_ref`. Rows must be contiguous and have at most MAX_ROW elements."""
    return _launch(x, residual, weight, eps)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """The Triton kernel on CUDA, `rms_norm_ref` elsewhere."""
    return rms_norm_triton(x, weight, eps) if x.is_cuda else rms_norm_ref(x, weight, eps)


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The Triton kernel on CUDA, `add_rms_norm_ref` elsewhere."""
    if x.is_cuda:
        return add_rms_norm_triton(x, residual, weight, eps)
    return add_rms_norm_ref(x, residual, weight, eps)
