"""Writes a step's keys and values to their slots of the paged cache. Slot `s` is offset
`s % block_size` of block `s // block_size`; slot -1 (padding) is written nowhere.
"""

import torch

from formgate.kernels.jit import is_float_tensor, tl, triton


def write_kv_ref(
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
def _write_kv_kernel(
    key_ptr,
    value_ptr,
    key_cache_ptr,
    value_cache_ptr,
    slot_mapping_ptr,
    key_stride,
    key_head_stride,
    value_stride,
    value_head_stride,
    num_kv_heads,
    head_dim,
    HEADS: tl.constexpr,
    DIMS: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_mapping_ptr + token)
    if slot >= 0:
        heads = tl.arange(0, HEADS)[:, None]
        dims = tl.arange(0, DIMS)[None, :]
        inside = (heads < num_kv_heads) & (dims < head_dim)
        # int64 by way of the slot: a big cache has more than 2**31 numbers.
        target = slot * num_kv_heads * head_dim + heads * head_dim + dims
        key = tl.load(key_ptr + token * key_stride + heads * key_head_stride + dims, mask=inside)
        tl.store(key_cache_ptr + target, key.to(key_cache_ptr.dtype.element_ty), mask=inside)
        value = tl.load(
            value_ptr + token * value_stride + heads * value_head_stride + dims, mask=inside
        )
        tl.store(value_cache_ptr + target, value.to(value_cache_ptr.dtype.element_ty), mask=inside)


def write_kv_triton(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
) -> None:
    n, num_kv_heads, head_dim = key.shape
    assert is_float_tensor(key)
    assert is_float_tensor(key_cache)
    assert value.shape == key.shape
    assert value.dtype == key.dtype
    assert key.stride(2) == value.stride(2) == 1
    assert key_cache.shape == value_cache.shape
    assert key_cache.dtype == value_cache.dtype
    assert key_cache.shape[2:] == (num_kv_heads, head_dim)
    assert key_cache.is_contiguous()
    assert value_cache.is_contiguous()
    assert slot_mapping.shape == (n,)
    assert slot_mapping.dtype == torch.int64
    assert slot_mapping.is_contiguous()
    if n:
        _write_kv_kernel[(n,)](
            key,
            value,
            key_cache,
            value_cache,
            slot_mapping,
            key.stride(0),
            key.stride(1),
            value.stride(0),
            value.stride(1),
            num_kv_heads,
            head_dim,
            HEADS=triton.next_power_of_2(num_kv_heads),
            DIMS=triton.next_power_of_2(head_dim),
        )


def write_kv(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
) -> None:
    op = write_kv_triton if key.is_cuda else write_kv_ref
    op(key, value, key_cache, value_cache, slot_mapping)
