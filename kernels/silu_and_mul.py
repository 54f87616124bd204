"""The gate of a SwiGLU MLP (arXiv:2002.05202): silu of a row's first half times its second half."""

import torch
import torch.nn.functional as F

from formgate.kernels.jit import is_float_tensor, tl, triton

BLOCK = 1024


def silu_and_mul_ref(x: torch.Tensor) -> torch.Tensor:
    """x [n, 2 * d], gate first, then up -> [n, d]"""
    gate, up = x.chunk(2, dim=-1)
    if x.dtype == torch.float32:
        return F.silu(gate).mul_(up)
    return F.silu(gate.float()).mul_(up).to(x.dtype)


@triton.jit
def _silu_and_mul_kernel(x_ptr, out_ptr, x_stride, size, BLOCK: tl.constexpr) -> None:
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    gate = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + row * x_stride + size + columns, mask=inside, other=0.0).to(tl.float32)
    out = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + row * size + columns, out.to(out_ptr.dtype.element_ty), mask=inside)


def silu_and_mul_triton(x: torch.Tensor) -> torch.Tensor:
    """As `silu_and_mul_ref`. Rows must be contiguous."""
    n, width = x.shape
    assert is_float_tensor(x)
    assert x.stride(1) == 1
    assert width % 2 == 0
    size = width // 2
    out = torch.empty((n, size), dtype=x.dtype, device=x.device)
    if n:
        grid = (n, triton.cdiv(size, BLOCK))
        _silu_and_mul_kernel[grid](x, out, x.stride(0), size, BLOCK=BLOCK)
    return out


def silu_and_mul(x: torch.Tensor) -> torch.Tensor:
    """The Triton kernel on CUDA, `silu_and_mul_ref` elsewhere."""
    return silu_and_mul_triton(x) if x.is_cuda else silu_and_mul_ref(x)
