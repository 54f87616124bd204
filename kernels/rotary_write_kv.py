"""Rotates a step's queries and keys by their positions and writes keys and values to their slots of
the paged cache. The rotary embedding pairs dimension `i` with dimension `i + rot_dim / 2` (NeoX
style) or, interleaved, dimension `2 i` with `2 i + 1` (GPT-J style); dimensions past `rot_dim`
stay. Slot `s` is offset `s % block_size` of block `s // block_size`; tokens with slot -1 (padding)
are not written.
"""

import torch

from formgate.kernels.jit import is_float_tensor, tl, triton


def rotary_write_kv_ref(
    positions: torch.Tensor,  # int64 [n]
    query: torch.Tensor,  # [n, num_heads, head_dim]
    key: torch.Tensor,  # [n, num_kv_heads, head_dim]
    value: torch.Tensor,  # [n, num_kv_heads, head_dim]
    cos_sin: torch.Tensor,  # float32 [max_position, rot_dim]: cosines, then sines
    key_cache: torch.Tensor,  # [blocks, block_size, num_kv_heads, head_dim]
    value_cache: torch.Tensor,  # [blocks, block_size, num_kv_heads, head_dim]
    slot_mapping: torch.Tensor,  # int64 [n]; -1 writes nothing
    *,
    interleaved: bool = False,
) -> torch.Tensor:
    """Returns the rotated queries, which may share `query`'s memory."""
    query, key = _rotate_ref(positions, query, key, cos_sin, interleaved)
    _write_ref(key, value, key_cache, value_cache, slot_mapping)
    return query


def _rotate_ref(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    cos_sin: torch.Tensor,
    interleaved: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the rotated query and key as views of one new tensor."""
    rot_dim = cos_sin.shape[1]
    cos, sin = cos_sin.index_select(0, positions).unsqueeze(1).chunk(2, dim=-1)
    both = torch.cat((query, key), dim=1)  # rotate both in place, with half the calls
    turned = both if both.dtype == torch.float32 else both[..., :rot_dim].float()
    if interleaved:
        first, second = turned[..., 0:rot_dim:2], turned[..., 1:rot_dim:2]
    else:
        first, second = turned[..., :rot_dim].chunk(2, dim=-1)
    first_sin = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-1.0)
    second.mul_(cos).add_(first_sin)
    if turned is not both:
        both[..., :rot_dim] = turned
    return both[:, : query.shape[1]], both[:, query.shape[1] :]


def _write_ref(
    key: torch.Tensor,  # [n, num_kv_heads, head_dim]
    value: torch.Tensor,
    key_cache: torch.Tensor,  # [blocks, block_size, num_kv_heads, head_dim]
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,  # int64 [n]
) -> None:
    if slot_mapping.numel() == 0:
        return
    if int(slot_mapping.min()) < 0:
        kept = (slot_mapping >= 0).nonzero().squeeze(1)
        slot_mapping = slot_mapping.index_select(0, kept)
        key, value = key.index_select(0, kept), value.index_select(0, kept)
    key_cache.view(-1, *key_cache.shape[2:]).index_copy_(0, slot_mapping, key.to(key_cache.dtype))
    value_cache.view(-1, *value_cache.shape[2:]).index_copy_(
        0, slot_mapping, value.to(value_cache.dtype)
    )


@triton.jit
def _rotary_write_kv_kernel(
    positions_ptr,
    query_ptr,
    key_ptr,
    value_ptr,
    cos_sin_ptr,
    key_cache_ptr,
    value_cache_ptr,
    slot_mapping_ptr,
    query_stride,
    query_head_stride,
    key_stride,
    key_head_stride,
    value_stride,
    value_head_stride,
    num_kv_heads,
    half,
    head_dim,
    GROUP: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    DIMS: tl.constexpr,
    INTERLEAVED: tl.constexpr,
) -> None:
    """Grid (tokens, KV heads): rotates and writes one KV head of a token, and rotates the query
    heads of its group.
    """
    token = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    columns = tl.arange(0, HALF)
    turning = columns < half
    row_ptr = cos_sin_ptr + tl.load(positions_ptr + token) * 2 * half + columns
    cos = tl.load(row_ptr, mask=turning, other=0.0)
    sin = tl.load(row_ptr + half, mask=turning, other=0.0)
    # Where a pair's first dimension lies, and how far behind it the second.
    firsts = columns * 2 if INTERLEAVED else columns
    apart = 1 if INTERLEAVED else half

    heads = tl.arange(0, HEADS)[:, None]
    inside = (heads < GROUP) & turning[None, :]
    first_ptr = query_ptr + token * query_stride
    first_ptr += (kv_head * GROUP + heads) * query_head_stride + firsts[None, :]
    first = tl.load(first_ptr, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(first_ptr + apart, mask=inside, other=0.0).to(tl.float32)
    turned = first * cos[None, :] - second * sin[None, :]
    tl.store(first_ptr, turned.to(query_ptr.dtype.element_ty), mask=inside)
    turned = second * cos[None, :] + first * sin[None, :]
    tl.store(first_ptr + apart, turned.to(query_ptr.dtype.element_ty), mask=inside)

    slot = tl.load(slot_mapping_ptr + token)
    if slot >= 0:
        # `slot` is int64, and so are the offsets: a large cache has more than 2**31 elements.
        target = (slot * num_kv_heads + kv_head) * head_dim
        source_ptr = key_ptr + token * key_stride + kv_head * key_head_stride
        first_key = tl.load(source_ptr + firsts, mask=turning, other=0.0).to(tl.float32)
        second_key = tl.load(source_ptr + apart + firsts, mask=turning, other=0.0).to(tl.float32)
        turned_key = first_key * cos - second_key * sin
        key_type = key_cache_ptr.dtype.element_ty
        tl.store(key_cache_ptr + target + firsts, turned_key.to(key_type), mask=turning)
        turned_key = second_key * cos + first_key * sin
        tl.store(key_cache_ptr + target + apart + firsts, turned_key.to(key_type), mask=turning)

        dims = tl.arange(0, DIMS)
        rest = (dims >= 2 * half) & (dims < head_dim)
        tl.store(
            key_cache_ptr + target + dims,
            tl.load(source_ptr + dims, mask=rest, other=0.0).to(key_type),
            mask=rest,
        )
        source_ptr = value_ptr + token * value_stride + kv_head * value_head_stride
        value = tl.load(source_ptr + dims, mask=dims < head_dim, other=0.0)
        tl.store(
            value_cache_ptr + target + dims,
            value.to(value_cache_ptr.dtype.element_ty),
            mask=dims < head_dim,
        )


def rotary_write_kv_triton(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cos_sin: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    *,
    interleaved: bool = False,
) -> torch.Tensor:
    """As `rotary_write_kv_ref`, but rotates queries in place. query, key and value may be strided
    views of one projection.
    """
    n, num_heads, head_dim = query.shape
    num_kv_heads = key.shape[1]
    rot_dim = cos_sin.shape[1]
    assert is_float_tensor(query)
    assert query.dtype == key.dtype == value.dtype
    assert key.shape == value.shape == (n, num_kv_heads, head_dim)
    assert num_heads % num_kv_heads == 0
    for indices in (positions, slot_mapping):
        assert indices.shape == (n,)
        assert indices.dtype == torch.int64
        assert indices.is_contiguous()
    assert cos_sin.dtype == torch.float32
    assert cos_sin.is_contiguous()
    assert rot_dim in range(0, head_dim + 1, 2)
    assert query.stride(2) == key.stride(2) == value.stride(2) == 1
    assert key_cache.shape == value_cache.shape
    assert key_cache.shape[2:] == (num_kv_heads, head_dim)
    assert key_cache.dtype == value_cache.dtype
    for cache in (key_cache, value_cache):
        assert cache.is_contiguous()
    group = num_heads // num_kv_heads
    if n:
        _rotary_write_kv_kernel[(n, num_kv_heads)](
            positions,
            query,
            key,
            value,
            cos_sin,
            key_cache,
            value_cache,
            slot_mapping,
            *query.stride()[:2],
            *key.stride()[:2],
            *value.stride()[:2],
            num_kv_heads,
            rot_dim // 2,
            head_dim,
            GROUP=group,
            HEADS=triton.next_power_of_2(group),
            HALF=triton.next_power_of_2(rot_dim // 2),
            DIMS=triton.next_power_of_2(head_dim),
            INTERLEAVED=interleaved,
            num_warps=1 if group * rot_dim <= 1024 else 4,
        )
    return query


def rotary_write_kv(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cos_sin: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    *,
    interleaved: bool = False,
) -> torch.Tensor:
    """The Triton kernel on CUDA, `rotary_write_kv_ref` elsewhere."""
    op = rotary_write_kv_triton if query.is_cuda else rotary_write_kv_ref
    return op(
        positions,
        query,
        key,
        value,
        cos_sin,
        key_cache,
        value_cache,
        slot_mapping,
        interleaved=interleaved,
    )
