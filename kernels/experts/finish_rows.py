"""What follows a grouped product that knows neither biases nor gates: the bias of each row's
expert, and the gate.
"""

import torch

from formgate.kernels.experts.gate import PLAIN_GATE, Gate, gated_ref, gated_values
from formgate.kernels.jit import is_float_tensor, tl, triton

__all__ = ["finish_rows", "finish_rows_ref", "finish_rows_triton"]

BLOCK = 1024


def finish_rows_ref(
    product: torch.Tensor,
    ends: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    gated: bool,
    gate: Gate = PLAIN_GATE,
) -> torch.Tensor:
    """product [n, d], rows sorted by expert; ends int32 [num_experts], where each expert's rows
    end; bias [num_experts, d] -> [n, d], or [n, d / 2] if `gated`. Rows of no expert are garbage.
    """
    wide = product if product.dtype == torch.float64 else product.float()
    if bias is not None:
        rows = torch.arange(len(product), device=product.device, dtype=ends.dtype)
        owners = torch.searchsorted(ends, rows, right=True).clamp(max=len(ends) - 1)
        wide = wide + bias[owners].to(wide.dtype)
    return (gated_ref(wide, gate) if gated else wide).to(product.dtype)


@triton.jit
def _finish_rows_kernel(
    product_ptr,
    ends_ptr,
    bias_ptr,
    out_ptr,
    num_experts,
    size,
    BIASED: tl.constexpr,
    GATED: tl.constexpr,
    ALPHA: tl.constexpr,
    LIMIT: tl.constexpr,
    EXPERTS_POW2: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Grid (rows, tiles of the `size` outputs)."""
    row = tl.program_id(0).to(tl.int64)
    number = tl.arange(0, EXPERTS_POW2)
    ends = tl.load(ends_ptr + number, mask=number < num_experts, other=0x7FFFFFFF)
    expert = tl.sum((ends <= row).to(tl.int32), axis=0)
    if expert < num_experts:
        columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = columns < size
        width = 2 * size if GATED else size
        rows = product_ptr + row * width + columns
        bias_rows = bias_ptr + expert.to(tl.int64) * width + columns
        out = tl.load(rows, mask=inside, other=0.0).to(tl.float32)
        if BIASED:
            out += tl.load(bias_rows, mask=inside, other=0.0).to(tl.float32)
        if GATED:
            up = tl.load(rows + size, mask=inside, other=0.0).to(tl.float32)
            if BIASED:
                up += tl.load(bias_rows + size, mask=inside, other=0.0).to(tl.float32)
            out = gated_values(out, up, ALPHA, LIMIT)
        tl.store(out_ptr + row * size + columns, out.to(out_ptr.dtype.element_ty), mask=inside)


def finish_rows_triton(
    product: torch.Tensor,
    ends: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    gated: bool,
    gate: Gate = PLAIN_GATE,
) -> torch.Tensor:
    """As `finish_rows_ref`; without a gate, in place."""
    n, width = product.shape
    assert is_float_tensor(product)
    assert product.is_contiguous()
    assert bias is None or (bias.shape == (len(ends), width) and bias.is_contiguous())
    size = width // 2 if gated else width
    out = product.new_empty((n, size)) if gated else product
    if n:
        _finish_rows_kernel[(n, triton.cdiv(size, BLOCK))](
            product,
            ends,
            product if bias is None else bias,
            out,
            len(ends),
            size,
            BIASED=bias is not None,
            GATED=gated,
            ALPHA=gate.alpha,
            LIMIT=gate.limit,
            EXPERTS_POW2=triton.next_power_of_2(len(ends)),
            BLOCK=BLOCK,
        )
    return out


def finish_rows(
    product: torch.Tensor,
    ends: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    gated: bool,
    gate: Gate = PLAIN_GATE,
) -> torch.Tensor:
    """The Triton kernel on CUDA, `finish_rows_ref` elsewhere."""
    finish = finish_rows_triton if product.is_cuda else finish_rows_ref
    return finish(product, ends, bias, gated=gated, gate=gate)
