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
from formgate.kernels.rotary import rotary, rotary_ref, rotary_triton
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


def dense_rotary(positions, x, cos_sin):
    """As a product of complex numbers, which shares no formula with the kernels."""
    half = cos_sin.shape[1] // 2
    cos_sin = cos_sin.double()[positions]
    turn = torch.complex(cos_sin[:, :half], cos_sin[:, half:]).unsqueeze(1)
    x = x.double().clone()
    turned = torch.complex(x[..., :half], x[..., half : 2 * half]) * turn
    x[..., :half], x[..., half : 2 * half] = turned.real, turned.imag
    return x


@dtypes
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "rot_dim"),
    [(6, 2, 64, 64), (3, 3, 80, 80), (4, 1, 64, 16), (5, 5, 20, 12)],
)
def test_rotary(device, assert_close, dtype, heads, kv_heads, head_dim, rot_dim):
    n = 5
    packed = torch.randn(n, (heads + 2 * kv_heads) * head_dim, device=device).to(dtype)
    query, key, _ = packed.split([heads * head_dim, kv_heads * head_dim, kv_heads * head_dim], 1)
    query, key = query.view(n, heads, head_dim), key.view(n, kv_heads, head_dim)
    positions = torch.tensor([0, 1, 499, 7, 7], device=device)
    angles = torch.rand(500, rot_dim // 2, device=device) * 6
    cos_sin = torch.cat((angles.cos(), angles.sin()), dim=1)
    expected = [dense_rotary(positions, x, cos_sin) for x in (query, key)]
    value_before = packed[:, (heads + kv_heads) * head_dim :].clone()
    for op in (rotary_ref, rotary_triton):  # the second may write in place
        for actual, wanted in zip(op(positions, query, key, cos_sin), expected, strict=True):
            assert actual.dtype is dtype
            assert_close(actual, wanted, dtype, scale=2)
    assert torch.equal(packed[:, (heads + kv_heads) * head_dim :], value_before)


def test_rotary_dispatches_by_device(device):
    query, key = torch.randn(2, 2, 8, device=device), torch.randn(2, 1, 8, device=device)
    table = torch.cat((torch.ones(4, 4), torch.zeros(4, 4)), dim=1).to(device)
    turned, _ = rotary(torch.tensor([0, 3], device=device), query.clone(), key, table)
    assert torch.equal(turned, query)
