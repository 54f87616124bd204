import pytest
import torch

from formgate.kernels.quantized.quantize_rows import (
    LARGEST,
    quantize_rows_ref,
    quantize_rows_triton,
)
from formgate.kernels.quantized.w8a8_linear import w8a8_linear, w8a8_linear_ref

TYPES = [torch.float8_e4m3fn, torch.int8]
types = pytest.mark.parametrize("kind", TYPES, ids=str)


@types
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("rows", "features"), [(1, 1), (3, 70), (5, 512), (0, 16)])
def test_rows_of_representable_values(device, kind, dtype, rows, features):
    """Of any others the interpreter rounds some wrongly: it drops a carry into the exponent."""
    numbers = (torch.randn(rows, features, device=device) * LARGEST[kind] / 4).clamp(-100, 100)
    numbers = numbers.round().to(kind).float()
    numbers[:, 0] = LARGEST[kind]
    x = (numbers / 64).to(dtype)
    x[1:2] = 0.0
    numbers[1:2] = 0.0
    for scale in (None, torch.tensor(1 / 64, device=device)):
        for quantize in (quantize_rows_triton, quantize_rows_ref):
            values, scales = quantize(x, kind, scale)
            assert torch.equal(values.float(), numbers)
            assert scales.shape == (rows, 1)
            is_zero = (x == 0).all(1, keepdim=True) & torch.tensor(scale is None)
            torch.testing.assert_close(scales[~is_zero], torch.full_like(scales[~is_zero], 1 / 64))


@types
@pytest.mark.parametrize("given", [False, True])
def test_rows_of_any_values(device, kind, given):
    x = torch.randn(5, 300, device=device) * 3
    scale = torch.tensor(0.01, device=device) if given else None
    quantize = quantize_rows_ref
    if kind is torch.int8 or x.is_cuda:
        quantize = quantize_rows_triton
    values, scales = quantize(x, kind, scale)
    clamped = x.clamp(-0.01 * LARGEST[kind], 0.01 * LARGEST[kind]) if given else x
    error = (values.float() * scales - clamped).abs()
    step = scales / 2 if kind is torch.int8 else clamped.abs() / 16 + scales * 2**-10
    assert (error <= step * 1.01).all()


@types
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(1, 16, 32), (40, 48, 128), (3, 5, 7)])
def test_against_float64(device, assert_close, kind, static, rows, outputs, inputs):
    """The product is exact but for the activations, which are quantized here, too."""
    wide = torch.randn(outputs, inputs, device=device) * LARGEST[kind] / 4
    weight = wide.clamp(-LARGEST[kind], LARGEST[kind]).to(kind)
    scales = (torch.rand(outputs, device=device) + 0.5) / LARGEST[kind]
    x = torch.randn(rows, inputs, device=device).bfloat16()
    bias = torch.randn(outputs, device=device).bfloat16()
    scale = torch.tensor(4.0 / LARGEST[kind], device=device) if static else None
    values, row_scales = quantize_rows_ref(x, kind, scale)
    expected = (values.double() * row_scales) @ (weight.double() * scales[:, None]).T
    for product in (w8a8_linear_ref, w8a8_linear):
        found = product(x, weight, scales, scale)
        assert_close(found, expected, x.dtype, scale=inputs**0.5)
        assert found.dtype is x.dtype
        found = product(x, weight, scales, scale, bias)
        assert_close(found, expected + bias.double(), x.dtype, scale=inputs**0.5)
