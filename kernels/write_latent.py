"""Completes a step's entries of a latent cache and writes them to their slots: the latent vector is
normalized, the rotary key turned by its position. Turns the rotary part of each query head, too.
Slot `s` is offset `s % block_size` of block `s // block_size`; -1 (padding) is not written.
"""

import torch

from formgate.kernels.jit import is_float_tensor, tl, triton
from formgate.kernels.rms_norm import rms_norm_ref

__all__ = ["write_latent", "write_latent_ref", "write_latent_triton"]


def write_latent_ref(
    positions: torch.Tensor,  # int64 [n]
    rotary_query: torch.Tensor,  # [n, num_heads, rotary_dim], any strides
    entries: torch.Tensor,  # [n, latent_dim + rotary_dim], any row stride
    weight: torch.Tensor,  # [latent_dim], of the latent vector's RMS norm
    cos_sin: torch.Tensor,  # float32 [max_position, rotary_dim]: cosines, then sines
    cache: torch.Tensor,  # [blocks, block_size, latent_dim + rotary_dim]
    slot_mapping: torch.Tensor,  # int64 [n]
    *,
    eps: float,
    interleaved: bool,
) -> None:
    """Changes `rotary_query` and `entries` in place and writes the entries to the cache."""
    latent_dim = weight.shape[0]
    cos, sin = cos_sin.index_select(0, positions).chunk(2, dim=-1)
    _turn(rotary_query, cos.unsqueeze(1), sin.unsqueeze(1), interleaved)
    _turn(entries[:, latent_dim:], cos, sin, interleaved)
    entries[:, :latent_dim] = rms_norm_ref(entries[:, :latent_dim], weight, eps)
    written = (slot_mapping >= 0).nonzero().squeeze(1)
    flat = cache.view(-1, cache.shape[2])
    flat.index_copy_(0, slot_mapping[written], entries[written].to(cache.dtype))


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool) -> None:
    first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, dim=-1)
    wide_first, wide_second = first.float(), second.float()
    turned = wide_second * cos + wide_first * sin
    first.copy_(wide_first * cos - wide_second * sin)
    second.copy_(turned)


@triton.jit
def _write_latent_kernel(
    positions_ptr,
    query_ptr,
    entries_ptr,
    weight_ptr,
    cos_sin_ptr,
    cache_ptr,
    slot_mapping_ptr,
    query_stride,
    query_head_stride,
    entry_stride,
    eps,
    HEADS: tl.constexpr,
    LATENT: tl.constexpr,
    HALF: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    HEAD_ROWS: tl.constexpr,
    LATENT_DIMS: tl.constexpr,
    HALF_DIMS: tl.constexpr,
) -> None:
    """Grid (tokens,)."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_mapping_ptr + token)
    pairs = tl.arange(0, HALF_DIMS)
    turning = pairs < HALF
    # Where a pair's first dimension lies, and how far behind it the second.
    firsts = pairs * 2 if INTERLEAVED else pairs
    apart = 1 if INTERLEAVED else HALF
    row_ptr = cos_sin_ptr + tl.load(positions_ptr + token) * 2 * HALF + pairs
    cos = tl.load(row_ptr, mask=turning, other=0.0)
    sin = tl.load(row_ptr + HALF, mask=turning, other=0.0)

    heads = tl.arange(0, HEAD_ROWS)[:, None]
    inside = (heads < HEADS) & turning[None, :]
    first_ptr = query_ptr + token * query_stride + heads * query_head_stride + firsts[None, :]
    first = tl.load(first_ptr, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(first_ptr + apart, mask=inside, other=0.0).to(tl.float32)
    dtype = query_ptr.dtype.element_ty
    tl.store(first_ptr, (first * cos - second * sin).to(dtype), mask=inside)
    tl.store(first_ptr + apart, (second * cos + first * sin).to(dtype), mask=inside)

    entry_ptr = entries_ptr + token * entry_stride
    dims = tl.arange(0, LATENT_DIMS)
    in_latent = dims < LATENT
    latent = tl.load(entry_ptr + dims, mask=in_latent, other=0.0).to(tl.float32)
    inverse = 1.0 / tl.sqrt(tl.sum(latent * latent, axis=0) / LATENT + eps)
    weight = tl.load(weight_ptr + dims, mask=in_latent, other=0.0).to(tl.float32)
    latent = (latent * inverse * weight).to(dtype)
    tl.store(entry_ptr + dims, latent, mask=in_latent)
    key_ptr = entry_ptr + LATENT + firsts
    first_key = tl.load(key_ptr, mask=turning, other=0.0).to(tl.float32)
    second_key = tl.load(key_ptr + apart, mask=turning, other=0.0).to(tl.float32)
    turned_first = (first_key * cos - second_key * sin).to(dtype)
    turned_second = (second_key * cos + first_key * sin).to(dtype)
    tl.store(key_ptr, turned_first, mask=turning)
    tl.store(key_ptr + apart, turned_second, mask=turning)
    if slot >= 0:
        target_ptr = cache_ptr + slot * (LATENT + 2 * HALF)
        tl.store(target_ptr + dims, latent, mask=in_latent)
        tl.store(target_ptr + LATENT + firsts, turned_first, mask=turning)
        tl.store(target_ptr + LATENT + firsts + apart, turned_second, mask=turning)


def write_latent_triton(
    positions: torch.Tensor,
    rotary_query: torch.Tensor,
    entries: torch.Tensor,
    weight: torch.Tensor,
    cos_sin: torch.Tensor,
    cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    *,
    eps: float,
    interleaved: bool,
) -> None:
    """As `write_latent_ref`."""
    n, num_heads, rotary_dim = rotary_query.shape
    latent_dim = weight.shape[0]
    assert is_float_tensor(entries)
    assert rotary_query.dtype == entries.dtype == cache.dtype
    assert entries.shape == (n, latent_dim + rotary_dim)
    assert rotary_query.stride(2) == entries.stride(1) == 1
    assert cache.is_contiguous()
    assert cache.shape[2] == latent_dim + rotary_dim
    assert cos_sin.dtype == torch.float32
    assert cos_sin.is_contiguous()
    assert cos_sin.shape[1] == rotary_dim
    for indices in (positions, slot_mapping):
        assert indices.shape == (n,)
        assert indices.dtype == torch.int64
    if n == 0:
        return
    _write_latent_kernel[(n,)](
        positions,
        rotary_query,
        entries,
        weight,
        cos_sin,
        cache,
        slot_mapping,
        *rotary_query.stride()[:2],
        entries.stride(0),
        eps,
        HEADS=num_heads,
        LATENT=latent_dim,
        HALF=rotary_dim // 2,
        INTERLEAVED=interleaved,
        HEAD_ROWS=triton.next_power_of_2(num_heads),
        LATENT_DIMS=triton.next_power_of_2(latent_dim),
        HALF_DIMS=triton.next_power_of_2(rotary_dim // 2),
        num_warps=4,
    )


def write_latent(
    positions: torch.Tensor,
    rotary_query: torch.Tensor,
    entries: torch.Tensor,
    weight: torch.Tensor,
    cos_sin: torch.Tensor,
    cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    *,
    eps: float,
    interleaved: bool,
) -> None:
    """The Triton kernel on CUDA, `write_latent_ref` elsewhere."""
    op = write_latent_triton if entries.is_cuda else write_latent_ref
    op(
        positions,
        rotary_query,
        entries,
        weight,
        cos_sin,
        cache,
        slot_mapping,
        eps=eps,
        interleaved=interleaved,
    )
