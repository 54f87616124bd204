"""Rotary position embedding of queries and keys, NeoX style: dimension `i` turns together with
dimension `i + rot_dim / 2`. Dimensions past `rot_dim` stay as they are.
"""

import torch

from formgate.kernels.jit import is_float_tensor, tl, triton


def rotary_ref(
    positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor, cos_sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """positions int64 [n], query [n, h, d], key [n, kvh, d], cos_sin float32 [max_pos, rot_dim]:
    a position's cosines, then its sines. Returns new tensors, views of one.
    """
    rot_dim = cos_sin.shape[1]
    cos, sin = cos_sin.index_select(0, positions).unsqueeze(1).chunk(2, dim=-1)
    both = torch.cat((query, key), dim=1)  # one copy, then everything in place: half the calls
    turned = both if both.dtype == torch.float32 else both[..., :rot_dim].float()
    first, second = turned[..., :rot_dim].chunk(2, dim=-1)
    first_sin = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-1.0)
    second.mul_(cos).add_(first_sin)
    if turned is not both:
        both[..., :rot_dim] = turned
    return both[:, : query.shape[1]], both[:, query.shape[1] :]


@triton.jit
def _rotate(
    ptr, head_stride, num_heads, cos, sin, HEADS: tl.constexpr, HALF: tl.constexpr, half
) -> None:
    """In place, the heads of one token; cos and sin are [1, HALF]."""
    heads = tl.arange(0, HEADS)[:, None]
    columns = tl.arange(0, HALF)[None, :]
    inside = (heads < num_heads) & (columns < half)
    first_ptr = ptr + heads * head_stride + columns
    first = tl.load(first_ptr, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(first_ptr + half, mask=inside, other=0.0).to(tl.float32)
    turned = first * cos - second * sin
    tl.store(first_ptr, turned.to(ptr.dtype.element_ty), mask=inside)
    turned = second * cos + first * sin
    tl.store(first_ptr + half, turned.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def _rotary_kernel(
    positions_ptr,
    query_ptr,
    key_ptr,
    cos_sin_ptr,
    query_stride,
    query_head_stride,
    num_heads,
    key_stride,
    key_head_stride,
    num_kv_heads,
    half,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    position = tl.load(positions_ptr + token)
    columns = tl.arange(0, HALF)[None, :]
    row_ptr = cos_sin_ptr + position * 2 * half + columns
    cos = tl.load(row_ptr, mask=columns < half, other=0.0)
    sin = tl.load(row_ptr + half, mask=columns < half, other=0.0)
    query_ptr += token * query_stride
    _rotate(query_ptr, query_head_stride, num_heads, cos, sin, HEADS, HALF, half)
    key_ptr += token * key_stride
    _rotate(key_ptr, key_head_stride, num_kv_heads, cos, sin, KV_HEADS, HALF, half)


def rotary_triton(
    positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor, cos_sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the reference, but in place; query and key may be strided views of one projection."""
    n, num_heads, head_dim = query.shape
    num_kv_heads = key.shape[1]
    rot_dim = cos_sin.shape[1]
    assert is_float_tensor(query)
    assert is_float_tensor(key)
    assert key.shape == (n, num_kv_heads, head_dim)
    assert positions.shape == (n,)
    assert positions.dtype == torch.int64
    assert positions.is_contiguous()
    assert cos_sin.dtype == torch.float32
    assert cos_sin.is_contiguous()
    assert rot_dim % 2 == 0
    assert rot_dim <= head_dim
    assert query.stride(2) == key.stride(2) == 1
    if n:
        _rotary_kernel[(n,)](
            positions,
            query,
            key,
            cos_sin,
            query.stride(0),
            query.stride(1),
            num_heads,
            key.stride(0),
            key.stride(1),
            num_kv_heads,
            rot_dim // 2,
            HEADS=triton.next_power_of_2(num_heads),
            KV_HEADS=triton.next_power_of_2(num_kv_heads),
            HALF=triton.next_power_of_2(rot_dim // 2),
        )
    return query, key


def rotary(
    positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor, cos_sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    op = rotary_triton if query.is_cuda else rotary_ref
    return op(positions, query, key, cos_sin)
