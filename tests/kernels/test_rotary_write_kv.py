import pytest
import torch

from formgate.kernels.rotary_write_kv import (
    rotary_write_kv,
    rotary_write_kv_ref,
    rotary_write_kv_triton,
)

OPS = {"ref": rotary_write_kv_ref, "triton": rotary_write_kv_triton, "dispatched": rotary_write_kv}


def turned(x, positions, cos_sin):
    """[n, heads, dim] in float64"""
    half = cos_sin.shape[1] // 2
    cos, sin = cos_sin.double()[positions].unsqueeze(1).split(half, dim=-1)
    x = x.double()
    first, second, rest = x.split((half, half, x.shape[2] - 2 * half), dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


@pytest.mark.parametrize("op", OPS.values(), ids=OPS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "rot_dim"),
    [(8, 2, 16, 16), (6, 2, 20, 12), (3, 3, 8, 8), (7, 1, 40, 40)],
)
def test_queries_turn_and_the_cache_is_written(
    device, assert_close, op, dtype, heads, kv_heads, head_dim, rot_dim
):
    n, block_size, blocks = 9, 4, 6
    packed = torch.randn(n, (heads + 2 * kv_heads) * head_dim, device=device).to(dtype)
    packed = packed.view(n, heads + 2 * kv_heads, head_dim)
    query, key, value = packed.split((heads, kv_heads, kv_heads), dim=1)
    angles = torch.rand(50, rot_dim // 2, device=device) * 6
    cos_sin = torch.cat((angles.cos(), angles.sin()), dim=-1)
    positions = torch.randint(0, 50, (n,), device=device)
    slots = torch.randperm(blocks * block_size, device=device)[:n]
    slots[3] = -1
    shape = (blocks, block_size, kv_heads, head_dim)
    key_cache = torch.randn(shape, device=device).to(dtype)
    value_cache = torch.randn(shape, device=device).to(dtype)
    expected_query = turned(query, positions, cos_sin)
    written = slots >= 0
    keys, values = key_cache.double().flatten(0, 1), value_cache.double().flatten(0, 1)
    keys[slots[written]] = turned(key, positions, cos_sin)[written]
    values[slots[written]] = value.double()[written]

    found = op(positions, query, key, value, cos_sin, key_cache, value_cache, slots)
    assert_close(found, expected_query, dtype)
    assert_close(key_cache.flatten(0, 1), keys, dtype)
    assert_close(value_cache.flatten(0, 1), values, dtype)
