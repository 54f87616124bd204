"""Causal attention over a paged cache of compressed vectors (multi-head latent attention of
DeepSeek-V2, arXiv:2405.04434, in its absorbed form). A token's cache entry is one latent vector,
which is the key and the value of all heads, and one rotary key behind it.

Query token `j` of a sequence with `q` query tokens and `c` context tokens sits at position
`c - q + j` and attends to entries `0 .. c - q + j`.
"""

from functools import partial
from typing import Any

import torch

from formgate.kernels.attention_kernels import combine_kernel
from formgate.kernels.jit import is_float_tensor, tl, triton
from formgate.kernels.latent_attention_ref import latent_attention_ref
from formgate.kernels.paged_attention import choose_splits

__all__ = [
    "latent_attention",
    "latent_attention_ref",
    "latent_attention_triton",
    "num_latent_splits",
]

MAX_LATENT = 512
TILE_HEADS = 16  # heads of a tile; they read the same entries
SHORT_QUERY = 4  # query tokens of a tile whose context may be split


@triton.jit
def _attend_entries(
    query,
    rotary_query,
    acc,
    total,
    highest,
    positions,
    cache_ptr,
    table_ptr,
    first_key,
    end_key,
    scale,
    LATENT: tl.constexpr,
    ROTARY: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    KEYS: tl.constexpr,
    LATENT_DIMS: tl.constexpr,
    ROTARY_DIMS: tl.constexpr,
) -> Any:
    """Online softmax (Milakov and Gimelshein, arXiv:1805.02867) over a range of entries."""
    LOG2_E: tl.constexpr = 1.4426950408889634
    dims = tl.arange(0, LATENT_DIMS)
    rotary_dims = tl.arange(0, ROTARY_DIMS)
    for base in range(first_key, end_key, KEYS):
        keys = base + tl.arange(0, KEYS)
        inside = keys < end_key
        block = tl.load(table_ptr + keys // BLOCK_SIZE, mask=inside, other=0)
        # int64, because a large cache has more than 2**31 elements.
        slots = block.to(tl.int64) * BLOCK_SIZE + keys % BLOCK_SIZE
        entry_ptr = cache_ptr + slots * (LATENT + ROTARY)
        latent = tl.load(
            entry_ptr[:, None] + dims[None, :],
            mask=inside[:, None] & (dims < LATENT)[None, :],
            other=0.0,
        )
        rotary = tl.load(
            entry_ptr[None, :] + LATENT + rotary_dims[:, None],
            mask=inside[None, :] & (rotary_dims < ROTARY)[:, None],
            other=0.0,
        )
        scores = tl.dot(query, tl.trans(latent), input_precision="ieee")
        scores = tl.dot(rotary_query, rotary, scores, input_precision="ieee")
        visible = inside[None, :] & (keys[None, :] <= positions[:, None])
        scores = tl.where(visible, scores * (scale * LOG2_E), float("-inf"))
        new_highest = tl.maximum(highest, tl.max(scores, axis=1))
        # Avoid -inf - -inf in a row that has seen no entry yet.
        shift = tl.where(new_highest == float("-inf"), 0.0, new_highest)
        weights = tl.exp2(scores - shift[:, None])
        fade = tl.exp2(highest - shift)
        total = total * fade + tl.sum(weights, axis=1)
        acc = tl.dot(weights.to(latent.dtype), latent, acc * fade[:, None], input_precision="ieee")
        highest = new_highest
    return acc, total, highest


# These arguments differ from step to step; specializing on them would compile while serving.
@triton.jit(do_not_specialize=["table_stride", "num_seqs", "shortest", "longest"])
def _latent_kernel(
    query_ptr,
    rotary_query_ptr,
    cache_ptr,
    out_ptr,
    partial_ptr,
    partial_log_ptr,
    block_tables_ptr,
    query_start_ptr,
    context_lens_ptr,
    query_stride,
    query_head_stride,
    rotary_stride,
    rotary_head_stride,
    table_stride,
    num_seqs,
    shortest,  # sequences with fewer or more query tokens than these are another launch's
    longest,
    whole_prompts_from,
    scale,
    HEADS: tl.constexpr,
    LATENT: tl.constexpr,
    ROTARY: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE_TOKENS: tl.constexpr,
    TILE_HEADS: tl.constexpr,
    KEYS: tl.constexpr,
    LATENT_DIMS: tl.constexpr,
    ROTARY_DIMS: tl.constexpr,
    SPLITS: tl.constexpr,
    ONE_TILE_EACH: tl.constexpr,
) -> None:
    """Grid (tiles, tiles of heads, splits): some query tokens, with some of their heads, attend to
    one range of their entries.
    """
    tile = tl.program_id(0)
    split = tl.program_id(2)
    seq = tile
    tile_in_seq = 0
    if not ONE_TILE_EACH:
        # Sequence i starts at tile query_start[i] // TILE_TOKENS + i: the grid follows from shapes.
        low = 0
        high = num_seqs
        while low < high - 1:
            middle = (low + high) // 2
            if tl.load(query_start_ptr + middle) // TILE_TOKENS + middle <= tile:
                low = middle
            else:
                high = middle
        seq = low
        tile_in_seq = tile - (tl.load(query_start_ptr + seq) // TILE_TOKENS + seq)
    start = tl.load(query_start_ptr + seq)
    query_len = tl.load(query_start_ptr + seq + 1) - start
    context_len = tl.load(context_lens_ptr + seq)
    first_token = tile_in_seq * TILE_TOKENS
    wanted = (query_len >= shortest) & (query_len <= longest) & (first_token < query_len)
    whole = (query_len == context_len) & (query_len >= whole_prompts_from)
    if wanted & ((whole_prompts_from == 0) | (not whole)):
        rows = tl.arange(0, TILE_TOKENS * TILE_HEADS)
        tokens = first_token + rows // TILE_HEADS
        heads = tl.program_id(1) * TILE_HEADS + rows % TILE_HEADS
        row_inside = (tokens < query_len) & (heads < HEADS)
        first_position = context_len - query_len + first_token
        positions = first_position + rows // TILE_HEADS
        dims = tl.arange(0, LATENT_DIMS)
        rotary_dims = tl.arange(0, ROTARY_DIMS)
        at = (start + tokens).to(tl.int64)
        query = tl.load(
            query_ptr
            + at[:, None] * query_stride
            + heads.to(tl.int64)[:, None] * query_head_stride
            + dims[None, :],
            mask=row_inside[:, None] & (dims < LATENT)[None, :],
            other=0.0,
        )
        rotary_query = tl.load(
            rotary_query_ptr
            + at[:, None] * rotary_stride
            + heads[:, None] * rotary_head_stride
            + rotary_dims[None, :],
            mask=row_inside[:, None] & (rotary_dims < ROTARY)[None, :],
            other=0.0,
        )
        first_key = 0
        end_key = tl.minimum(first_position + TILE_TOKENS, context_len)
        if SPLITS > 1:
            keys_per_split = tl.cdiv(tl.cdiv(end_key, KEYS), SPLITS) * KEYS
            first_key = split * keys_per_split
            end_key = tl.minimum(first_key + keys_per_split, end_key)
        acc, total, highest = _attend_entries(
            query,
            rotary_query,
            tl.zeros((TILE_TOKENS * TILE_HEADS, LATENT_DIMS), tl.float32),
            tl.zeros((TILE_TOKENS * TILE_HEADS,), tl.float32),
            tl.full((TILE_TOKENS * TILE_HEADS,), float("-inf"), tl.float32),
            positions,
            cache_ptr,
            block_tables_ptr + seq.to(tl.int64) * table_stride,
            first_key,
            end_key,
            scale,
            LATENT=LATENT,
            ROTARY=ROTARY,
            BLOCK_SIZE=BLOCK_SIZE,
            KEYS=KEYS,
            LATENT_DIMS=LATENT_DIMS,
            ROTARY_DIMS=ROTARY_DIMS,
        )
        nothing_seen = total == 0.0
        acc = acc / tl.where(nothing_seen, 1.0, total)[:, None]
        stored = row_inside[:, None] & (dims < LATENT)[None, :]
        if SPLITS == 1:
            out_rows = at * HEADS + heads
            tl.store(
                out_ptr + out_rows[:, None] * LATENT + dims[None, :],
                acc.to(out_ptr.dtype.element_ty),
                mask=stored,
            )
        else:
            seq_rows = seq.to(tl.int64) * TILE_TOKENS + tokens
            parts = (seq_rows * HEADS + heads) * SPLITS + split
            tl.store(partial_ptr + parts[:, None] * LATENT + dims[None, :], acc, mask=stored)
            log_total = tl.where(
                nothing_seen, float("-inf"), highest + tl.log2(tl.where(nothing_seen, 1.0, total))
            )
            tl.store(partial_log_ptr + parts, log_total, mask=row_inside)


def latent_attention_triton(
    query: torch.Tensor,
    rotary_query: torch.Tensor,
    cache: torch.Tensor,
    block_tables: torch.Tensor,
    query_start: torch.Tensor,
    context_lens: torch.Tensor,
    *,
    max_query_len: int,
    max_context_len: int,
    scale: float,
    whole_prompts_from: int = 0,
    num_splits: int | None = None,
) -> torch.Tensor:
    """As `latent_attention_ref`, but rows that are left out hold anything. Grids depend only on
    shapes and on the two maxima, and nothing synchronizes, so a decode batch can be captured in a
    CUDA graph. `num_splits`: parts of each context; None: chosen by the size of the device.
    """
    n, num_heads, latent_dim = query.shape
    num_seqs = context_lens.shape[0]
    assert is_float_tensor(query)
    assert query.dtype == rotary_query.dtype == cache.dtype
    assert rotary_query.shape[:2] == (n, num_heads)
    assert query.stride(2) == rotary_query.stride(2) == 1
    assert cache.is_contiguous()
    assert cache.shape[2] == latent_dim + rotary_query.shape[2]
    assert latent_dim <= MAX_LATENT
    for integers in (block_tables, query_start, context_lens):
        assert integers.dtype == torch.int32
        assert integers.stride(-1) == 1
    assert query_start.shape == (num_seqs + 1,)
    assert block_tables.shape[0] == num_seqs

    out = torch.empty((n, num_heads, latent_dim), dtype=query.dtype, device=query.device)
    if n == 0:
        return out
    launch = partial(
        _launch,
        query,
        rotary_query,
        cache,
        out,
        (block_tables, query_start, context_lens),
        whole_prompts_from,
        scale,
    )
    if max_query_len > SHORT_QUERY:
        tile_tokens = 1 if query.dtype == torch.float32 else 4
        tiles = n // tile_tokens + num_seqs
        launch(SHORT_QUERY + 1, max_query_len, tiles=tiles, tile_tokens=tile_tokens, splits=1)
        if n == num_seqs * max_query_len:  # all queries have the same length, so none is short
            return out
    if num_splits is None:
        num_splits = num_latent_splits(num_seqs, num_heads, max_context_len, query.device)
    tile_tokens = 1 if max_query_len == 1 else SHORT_QUERY
    launch(1, SHORT_QUERY, tiles=None, tile_tokens=tile_tokens, splits=num_splits)
    return out


def num_latent_splits(
    num_seqs: int, num_heads: int, max_context_len: int, device: torch.device
) -> int:
    """Number of parts that the contexts of a batch of short queries are split into."""
    head_tiles = -(-num_heads // TILE_HEADS)
    return choose_splits(num_seqs * head_tiles, max_context_len, device)


def _launch(
    query: torch.Tensor,
    rotary_query: torch.Tensor,
    cache: torch.Tensor,
    out: torch.Tensor,
    lengths: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    whole_prompts_from: int,
    scale: float,
    shortest: int,
    longest: int,
    *,
    tiles: int | None,  # None: one for each sequence
    tile_tokens: int,
    splits: int,
) -> None:
    """The sequences with `shortest` to `longest` query tokens."""
    _, num_heads, latent_dim = query.shape
    block_tables, query_start, _ = lengths
    num_seqs = block_tables.shape[0]
    wide = query.dtype == torch.float32
    latent_dims = max(triton.next_power_of_2(latent_dim), 16)
    partial_out = partial_log = out
    if splits > 1:
        parts = (num_seqs * tile_tokens, num_heads, splits)
        partial_out = torch.empty((*parts, latent_dim), dtype=torch.float32, device=query.device)
        partial_log = torch.empty(parts, dtype=torch.float32, device=query.device)
    _latent_kernel[(tiles or num_seqs, -(-num_heads // TILE_HEADS), splits)](
        query,
        rotary_query,
        cache,
        out,
        partial_out,
        partial_log,
        *lengths,
        *query.stride()[:2],
        *rotary_query.stride()[:2],
        block_tables.stride(0),
        num_seqs,
        shortest,
        longest,
        whole_prompts_from,
        scale,
        HEADS=num_heads,
        LATENT=latent_dim,
        ROTARY=rotary_query.shape[2],
        BLOCK_SIZE=cache.shape[1],
        TILE_TOKENS=tile_tokens,
        TILE_HEADS=TILE_HEADS,
        KEYS=16 if wide else 32,
        LATENT_DIMS=latent_dims,
        ROTARY_DIMS=max(triton.next_power_of_2(rotary_query.shape[2]), 16),
        SPLITS=splits,
        ONE_TILE_EACH=tiles is None,
        num_warps=4 if tile_tokens == 1 else 8,
        num_stages=1 if wide else 2,
    )
    if splits > 1:
        combine_kernel[(num_seqs * tile_tokens, num_heads)](
            partial_out,
            partial_log,
            out,
            query_start,
            None,
            longest,
            NUM_HEADS=num_heads,
            HEAD_DIM=latent_dim,
            TILE_TOKENS=tile_tokens,
            DIMS=latent_dims,
            SPLITS=splits,
            SINKS=False,
            num_warps=8,
        )


def latent_attention(
    query: torch.Tensor,
    rotary_query: torch.Tensor,
    cache: torch.Tensor,
    block_tables: torch.Tensor,
    query_start: torch.Tensor,
    context_lens: torch.Tensor,
    *,
    max_query_len: int,
    max_context_len: int,
    scale: float,
    whole_prompts_from: int = 0,
) -> torch.Tensor:
    """The Triton kernel on CUDA, `latent_attention_ref` elsewhere."""
    op = latent_attention_triton if query.is_cuda else latent_attention_ref
    return op(
        query,
        rotary_query,
        cache,
        block_tables,
        query_start,
        context_lens,
        max_query_len=max_query_len,
        max_context_len=max_context_len,
        scale=scale,
        whole_prompts_from=whole_prompts_from,
    )
