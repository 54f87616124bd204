"""A linear layer for few rows, which is bound by reading the weight from memory. More rows go to
cuBLAS. Measurements are in docs/performance.md.
"""

import torch
import torch.nn.functional as F

from formgate.kernels.jit import tl, triton

__all__ = ["MAX_ROWS", "linear", "linear_ref", "linear_triton"]

MAX_ROWS = 16  # columns of one matrix instruction; with more rows, cuBLAS is as fast
TYPES = (torch.bfloat16, torch.float16)
MIN_OUTPUTS_OF_LARGE_TILES = 5120
MIN_OUTPUTS_OF_MANY_TILES = 16384


def linear_ref(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """x [n, in_features], weight [out_features, in_features], bias [out_features] ->
    [n, out_features]
    """
    return F.linear(x, weight, bias)


# One variant for every number of rows, so that none is compiled while serving.
@triton.jit(do_not_specialize=["num_rows"])
def _linear_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    num_rows,
    in_features,
    out_features,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
) -> None:
    """Grid (tiles of outputs). The weight is the left operand, because its rows fill a matrix
    instruction and the few rows of x do not.
    """
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    outside = outputs >= out_features
    rows = tl.arange(0, ROWS)
    row_inside = rows < num_rows
    row_ptr = weight_ptr + tl.where(outside, 0, outputs).to(tl.int64) * in_features
    acc = tl.zeros((OUTPUTS, ROWS), tl.float32)
    for base in range(0, in_features, INPUTS):
        inputs = base + tl.arange(0, INPUTS)
        inside = inputs < in_features
        weight = tl.load(row_ptr[:, None] + inputs[None, :], mask=inside[None, :], other=0.0)
        x = tl.load(
            x_ptr + rows[None, :] * in_features + inputs[:, None],
            mask=row_inside[None, :] & inside[:, None],
            other=0.0,
        )
        acc = tl.dot(weight, x, acc, input_precision="ieee")
    if HAS_BIAS:
        acc += tl.load(bias_ptr + outputs, mask=~outside, other=0.0).to(tl.float32)[:, None]
    tl.store(
        out_ptr + rows[None, :] * out_features + outputs[:, None],
        acc.to(out_ptr.dtype.element_ty),
        mask=row_inside[None, :] & ~outside[:, None],
    )


def linear_triton(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """As `linear_ref`, for at most MAX_ROWS rows. x and weight must be contiguous."""
    n, in_features = x.shape
    out_features = weight.shape[0]
    assert n <= MAX_ROWS
    assert x.dtype == weight.dtype
    assert weight.shape == (out_features, in_features)
    assert x.is_contiguous()
    assert weight.is_contiguous()
    out = torch.empty((n, out_features), dtype=x.dtype, device=x.device)
    if n:
        # Small tiles if large ones are too few for all multiprocessors; more pipeline stages if a
        # multiprocessor has only one tile.
        outputs, inputs = (64, 128) if out_features >= MIN_OUTPUTS_OF_LARGE_TILES else (32, 256)
        _linear_kernel[(triton.cdiv(out_features, outputs),)](
            x,
            weight,
            weight if bias is None else bias,
            out,
            n,
            in_features,
            out_features,
            HAS_BIAS=bias is not None,
            ROWS=MAX_ROWS,
            OUTPUTS=outputs,
            INPUTS=inputs,
            num_warps=4,
            num_stages=4 if out_features >= MIN_OUTPUTS_OF_MANY_TILES else 6,
        )
    return out


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """The Triton kernel for few rows in half precision on CUDA, `F.linear` otherwise."""
    if x.is_cuda and x.shape[0] <= MAX_ROWS and x.dtype in TYPES and x.is_contiguous():
        return linear_triton(x, weight, bias)
    return linear_ref(x, weight, bias)
