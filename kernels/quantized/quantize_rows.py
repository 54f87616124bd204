"""Rows of activations in 8 bits: float8 e4m3 or int8, with a scale for each row or a given one."""

import torch

from formgate.kernels.jit import tl, triton

__all__ = ["LARGEST", "quantize_rows", "quantize_rows_ref", "quantize_rows_triton"]

# The largest value of each type; e4m3's is that of the finite variant without infinities.
LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}
MIN_SCALE = 1e-12  # of a row of zeros


def quantize_rows_ref(
    x: torch.Tensor, dtype: torch.dtype, scale: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """x [n, features], scale float32 [] -> (values `dtype` [n, features], scales float32 [n, 1])
    with x about values * scales. Values past the largest are clamped.
    """
    largest = LARGEST[dtype]
    wide = x.float()
    if scale is None:
        scales = (wide.abs().amax(1, keepdim=True) / largest).clamp(min=MIN_SCALE)
    else:
        scales = scale.float().expand(x.shape[0], 1)
    values = (wide / scales).clamp(-largest, largest)
    if dtype is torch.int8:
        values = values.round()
    return values.to(dtype), scales.contiguous()


@triton.jit
def _quantize_kernel(
    x_ptr,
    scale_ptr,
    values_ptr,
    scales_ptr,
    features,
    HAS_SCALE: tl.constexpr,
    INTEGERS: tl.constexpr,
    LARGEST: tl.constexpr,
    MIN_SCALE: tl.constexpr,
    FEATURES: tl.constexpr,
) -> None:
    """Grid (rows)."""
    row = tl.program_id(0).to(tl.int64)
    feature = tl.arange(0, FEATURES)
    inside = feature < features
    x = tl.load(x_ptr + row * features + feature, mask=inside, other=0.0).to(tl.float32)
    if HAS_SCALE:
        scale = tl.load(scale_ptr)
    else:
        scale = tl.maximum(tl.max(tl.abs(x), 0) / LARGEST, MIN_SCALE)
    tl.store(scales_ptr + row, scale)
    values = tl.minimum(tl.maximum(x / scale, -LARGEST), LARGEST)
    if INTEGERS:
        # Adding and taking away 1.5 * 2^23 rounds to the nearest, ties to even.
        values = (values + 12582912.0) - 12582912.0
    tl.store(
        values_ptr + row * features + feature, values.to(values_ptr.dtype.element_ty), mask=inside
    )


def quantize_rows_triton(
    x: torch.Tensor, dtype: torch.dtype, scale: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `quantize_rows_ref`. x must be contiguous."""
    n, features = x.shape
    assert x.is_contiguous()
    values = torch.empty((n, features), dtype=dtype, device=x.device)
    scales = torch.empty((n, 1), dtype=torch.float32, device=x.device)
    if n:
        width = triton.next_power_of_2(features)
        _quantize_kernel[(n,)](
            x,
            scales if scale is None else scale,
            values,
            scales,
            features,
            HAS_SCALE=scale is not None,
            INTEGERS=dtype is torch.int8,
            LARGEST=LARGEST[dtype],
            MIN_SCALE=MIN_SCALE,
            FEATURES=width,
            num_warps=min(max(width // 512, 1), 16),
        )
    return values, scales


def quantize_rows(
    x: torch.Tensor, dtype: torch.dtype, scale: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The Triton kernel on CUDA, the reference otherwise."""
    if x.is_cuda:
        return quantize_rows_triton(x.contiguous(), dtype, scale)
    return quantize_rows_ref(x, dtype, scale)
