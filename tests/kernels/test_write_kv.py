import pytest
import torch

from formgate.kernels.write_kv import write_kv, write_kv_ref, write_kv_triton


@pytest.mark.parametrize("op", [write_kv_ref, write_kv_triton, write_kv])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("kv_heads", "head_dim"), [(2, 64), (3, 20)])
@pytest.mark.parametrize("slots", [[5, 0, 47, 16], [5, -1, 47, -1], [-1, -1, -1, -1], []])
def test_keys_and_values_land_in_their_slots(device, op, dtype, kv_heads, head_dim, slots):
    n = len(slots)
    packed = torch.randn(n, 2 * kv_heads * head_dim + 7, device=device).to(dtype)
    shape = (n, kv_heads, head_dim)
    key = packed[:, : kv_heads * head_dim].view(shape)
    value = packed[:, kv_heads * head_dim : 2 * kv_heads * head_dim].view(shape)
    caches = [torch.randn(3, 16, kv_heads, head_dim, device=device).to(dtype) for _ in range(2)]
    expected = [cache.clone() for cache in caches]
    for token, slot in enumerate(slots):
        if slot >= 0:
            expected[0][slot // 16, slot % 16] = key[token]
            expected[1][slot // 16, slot % 16] = value[token]
    op(key, value, *caches, torch.tensor(slots, dtype=torch.int64, device=device))
    assert torch.equal(caches[0], expected[0])
    assert torch.equal(caches[1], expected[1])
