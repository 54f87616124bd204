import pytest
import torch

from formgate.kernels.rms_norm import (
    add_rms_norm,
    add_rms_norm_ref,
    add_rms_norm_triton,
    rms_norm,
    rms_norm_ref,
    rms_norm_triton,
)
from formgate.kernels.silu_and_mul import silu_and_mul, silu_and_mul_ref, silu_and_mul_triton

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def dense_rms_norm(x, weight, eps):
    x, weight = x.double(), weight.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


@dtypes
@pytest.mark.parametrize(("n", "d"), [(1, 1), (3, 64), (5, 384), (2, 1000), (0, 16)])
def test_rms_norm(device, assert_close, dtype, n, d):
    x = (torch.randn(n, d, device=device) * 3).to(dtype)
    weight = torch.randn(d, device=device).to(dtype)
    expected = dense_rms_norm(x, weight, 1e-5)
    assert_close(rms_norm_triton(x, weight, 1e-5), expected, dtype, scale=3)
    assert_close(rms_norm_ref(x, weight, 1e-5), expected, dtype, scale=3)
    assert rms_norm(x, weight, 1e-5).dtype is dtype


def test_rms_norm_of_a_strided_view_with_a_wider_weight(device, assert_close):
    x = torch.randn(4, 96, device=device).bfloat16()[:, :40]
    weight = torch.randn(40, device=device)
    expected = dense_rms_norm(x, weight, 1e-6)
    assert_close(rms_norm_triton(x, weight, 1e-6), expected, torch.bfloat16)
    assert_close(rms_norm_ref(x, weight, 1e-6), expected, torch.bfloat16)


@dtypes
def test_add_rms_norm(device, assert_close, dtype):
    x = torch.randn(5, 72, device=device).to(dtype)
    residual = torch.randn(5, 100, device=device).to(dtype)[:, :72]
    weight = torch.randn(72, device=device).to(dtype)
    before = x.clone(), residual.clone()
    for op in (add_rms_norm_triton, add_rms_norm_ref, add_rms_norm):
        normed, summed = op(x, residual, weight, 1e-5)
        assert_close(summed, x.double() + residual.double(), dtype)
        assert_close(normed, dense_rms_norm(summed, weight, 1e-5), dtype, scale=3)
    assert torch.equal(x, before[0])
    assert torch.equal(residual, before[1])


@dtypes
@pytest.mark.parametrize(("n", "d"), [(1, 8), (3, 1024), (2, 1500)])
def test_silu_and_mul(device, assert_close, dtype, n, d):
    x = (torch.randn(n, 2 * d, device=device) * 4).to(dtype)
    gate, up = x.double().chunk(2, dim=-1)
    expected = gate * gate.sigmoid() * up
    assert_close(silu_and_mul_triton(x), expected, dtype, scale=2)
    assert_close(silu_and_mul_ref(x), expected, dtype, scale=2)
    assert silu_and_mul(x).dtype is dtype
