import pytest
import torch

from formgate.kernels.rotary_write_kv import (
    rotary_write_kv,
    rotary_write_kv_ref,
    rotary_write_kv_triton,
)

OPS = {"ref": rotary_write_kv_ref, "triton": rotary_write_kv_triton, "dispatched": rotary_write_kv}


def dense_rotary(positions, x, cos_sin, interleaved):
    """As a product of complex numbers, which shares no formula with the kernels."""
    half = cos_sin.shape[1] // 2
    if interleaved:
        order = torch.cat((torch.arange(0, 2 * half, 2), torch.arange(1, 2 * half, 2)))
        order = torch.cat((order, torch.arange(2 * half, x.shape[-1]))).to(x.device)
        return dense_rotary(positions, x[..., order], cos_sin, False)[..., order.argsort()]
    cos_sin = cos_sin.double()[positions]
    turn = torch.complex(cos_sin[:, :half], cos_sin[:, half:]).unsqueeze(1)
    x = x.double().clone()
    turned = torch.complex(x[..., :half], x[..., half : 2 * half]) * turn
    x[..., :half], x[..., half : 2 * half] = turned.real, turned.imag
    return x


@pytest.mark.parametrize("op", OPS.values(), ids=OPS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "rot_dim"),
    [(6, 2, 64, 64), (3, 3, 80, 80), (4, 1, 64, 16), (5, 5, 20, 12), (7, 1, 40, 40)],
)
@pytest.mark.parametrize("n", [0, 1, 9])
@pytest.mark.parametrize("interleaved", [False, True])
def test_queries_turn_and_the_cache_is_written(
    device, assert_close, op, dtype, n, heads, kv_heads, head_dim, rot_dim, interleaved
):
    block_size, blocks = 4, 6
    packed = torch.randn(n, (heads + 2 * kv_heads) * head_dim, device=device).to(dtype)
    packed = packed.view(n, heads + 2 * kv_heads, head_dim)
    query, key, value = packed.split((heads, kv_heads, kv_heads), dim=1)
    angles = torch.rand(50, rot_dim // 2, device=device) * 6
    cos_sin = torch.cat((angles.cos(), angles.sin()), dim=-1)
    positions = torch.randint(0, 50, (n,), device=device)
    slots = torch.randperm(blocks * block_size, device=device)[:n]
    slots[3:5] = -1
    shape = (blocks, block_size, kv_heads, head_dim)
    key_cache = torch.randn(shape, device=device).to(dtype)
    value_cache = torch.randn(shape, device=device).to(dtype)
    expected_query = dense_rotary(positions, query, cos_sin, interleaved)
    written = slots >= 0
    keys, values = key_cache.double().flatten(0, 1), value_cache.double().flatten(0, 1)
    keys[slots[written]] = dense_rotary(positions, key, cos_sin, interleaved)[written]
    values[slots[written]] = value.double()[written]

    caches = key_cache, value_cache
    found = op(positions, query, key, value, cos_sin, *caches, slots, interleaved=interleaved)
    assert found.dtype is dtype
    assert_close(found, expected_query, dtype, scale=2)
    assert_close(key_cache.flatten(0, 1), keys, dtype, scale=2)
    assert_close(value_cache.flatten(0, 1), values, dtype)
