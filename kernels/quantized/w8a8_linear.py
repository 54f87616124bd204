"""A linear layer of 8-bit weights and 8-bit activations: float8 e4m3, or int8."""

import torch
import torch.nn.functional as F

from formgate.kernels.quantized.quantize_rows import quantize_rows, quantize_rows_ref

__all__ = ["w8a8_linear", "w8a8_linear_ref"]

MULTIPLE = 16  # of inputs and outputs, which the libraries' products take
MIN_INT8_ROWS = 32  # of cuBLAS's product in int8, and the multiple of its rows


def w8a8_linear_ref(
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    input_scale: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """x [n, in_features], weight float8 or int8 [out_features, in_features], scales float32
    [out_features] -> [n, out_features]. Each row of x is quantized by its largest value, or all
    by `input_scale` float32 [].
    """
    values, row_scales = quantize_rows_ref(x, weight.dtype, input_scale)
    out = values.float() @ weight.float().t() * row_scales * scales
    return (out if bias is None else out + bias.float()).to(x.dtype)


def w8a8_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    input_scale: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """The libraries' products on CUDA where the shape allows, else as `w8a8_linear_ref`."""
    if not x.is_cuda or any(size % MULTIPLE for size in weight.shape):
        return w8a8_linear_ref(x, weight, scales, input_scale, bias)
    values, row_scales = quantize_rows(x, weight.dtype, input_scale)
    out: torch.Tensor
    if weight.dtype is torch.int8:
        rows = x.shape[0]
        padded = F.pad(values, (0, 0, 0, -rows % MIN_INT8_ROWS))
        out = torch._int_mm(padded, weight.t())[:rows] * row_scales * scales
    else:
        # Row-wise scales are for products in bfloat16 only.
        out = torch._scaled_mm(
            values,
            weight.t(),
            scale_a=row_scales,
            scale_b=scales.unsqueeze(0),
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
    out = out if bias is None else out + bias
    return out.to(x.dtype)
