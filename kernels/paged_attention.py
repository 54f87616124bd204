"""Causal attention of ragged query tokens over the paged cache: decode, prefill chunks and runs of
forced tokens in one batch, grouped-query heads, sliding window, soft-capped logits.

Query token `j` of a sequence with `q` query tokens and `c` context tokens sits at position
`c - q + j` and sees keys `0 .. c - q + j`, of these the last `sliding_window` if that is not 0.
"""

from typing import Any

import torch

from formgate.kernels.jit import is_float_tensor, tl, triton
from formgate.kernels.paged_attention_ref import ReferencePlan, paged_attention_ref

__all__ = ["paged_attention", "paged_attention_ref", "paged_attention_triton"]

MAX_HEAD_DIM = 256
SHORT_ROWS = 64  # query rows (tokens times heads of a group) that one split-K tile takes
KEYS_PER_SPLIT = 256  # fewer are not worth a program and its part of the combination
MAX_SPLITS = 32
PROGRAMS_PER_PROCESSOR = 4  # two run at a time; short ones hide each other's start and end


# These numbers differ from step to step: a variant for each that is 1 or a multiple of 16 would be
# compiled in the middle of serving, and hold up everybody for a second.
@triton.jit(do_not_specialize=["table_stride", "num_seqs", "shortest_query", "longest_query"])
def _attend_kernel(
    query_ptr,
    key_cache_ptr,
    value_cache_ptr,
    out_ptr,
    partial_ptr,
    partial_log_ptr,
    block_tables_ptr,
    query_start_ptr,
    context_lens_ptr,
    query_stride,
    query_head_stride,
    table_stride,
    num_seqs,
    shortest_query,
    longest_query,
    scale,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,  # query heads of a KV head; they share a tile
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    TILE_TOKENS: tl.constexpr,
    ROWS: tl.constexpr,  # of a tile: its tokens times GROUP, padded
    KEYS: tl.constexpr,
    DIMS: tl.constexpr,
    SPLITS: tl.constexpr,
    ONE_TILE_EACH: tl.constexpr,
) -> None:
    """Grid (tiles, KV heads, splits): one tile of query tokens against one range of its keys."""
    LOG2_E: tl.constexpr = 1.4426950408889634
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    seq = tile
    tile_in_seq = 0
    if not ONE_TILE_EACH:
        # Sequence i owns the tiles from query_start[i] // TILE_TOKENS + i on, so the grid follows
        # from the shapes alone; a few tiles are left over and do nothing.
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
    first_token = tile_in_seq * TILE_TOKENS
    if (query_len >= shortest_query) & (query_len <= longest_query) & (first_token < query_len):
        context_len = tl.load(context_lens_ptr + seq)
        first_position = context_len - query_len + first_token
        rows = tl.arange(0, ROWS)
        tokens = first_token + rows // GROUP
        heads = kv_head * GROUP + rows % GROUP
        row_inside = (rows < TILE_TOKENS * GROUP) & (tokens < query_len)
        positions = first_position + rows // GROUP
        dims = tl.arange(0, DIMS)
        dim_inside = dims < HEAD_DIM
        query = tl.load(
            query_ptr
            + (start + tokens).to(tl.int64)[:, None] * query_stride
            + heads[:, None] * query_head_stride
            + dims[None, :],
            mask=row_inside[:, None] & dim_inside[None, :],
            other=0.0,
        )

        first_key = 0
        if WINDOW > 0:
            first_key = tl.maximum(first_position - WINDOW + 1, 0)
        end_key = tl.minimum(first_position + TILE_TOKENS, context_len)
        if SPLITS > 1:
            tiles_of_keys = tl.cdiv(end_key - first_key, KEYS)
            keys_per_split = tl.cdiv(tiles_of_keys, SPLITS) * KEYS
            first_key += split * keys_per_split
            end_key = tl.minimum(first_key + keys_per_split, end_key)

        highest = tl.full((ROWS,), float("-inf"), tl.float32)
        total = tl.zeros((ROWS,), tl.float32)
        acc = tl.zeros((ROWS, DIMS), tl.float32)
        for base in range(first_key, end_key, KEYS):
            keys = base + tl.arange(0, KEYS)
            key_inside = keys < end_key
            block = tl.load(
                block_tables_ptr + seq.to(tl.int64) * table_stride + keys // BLOCK_SIZE,
                mask=key_inside,
                other=0,
            ).to(tl.int64)  # a big cache has more than 2**31 numbers
            slots = block * BLOCK_SIZE + keys % BLOCK_SIZE
            offsets = (slots * NUM_KV_HEADS + kv_head) * HEAD_DIM
            key = tl.load(
                key_cache_ptr + offsets[None, :] + dims[:, None],
                mask=key_inside[None, :] & dim_inside[:, None],
                other=0.0,
            )
            scores = tl.dot(query, key, input_precision="ieee") * scale
            if SOFTCAP > 0.0:
                # tanh(x) = 1 - 2 / (exp(2x) + 1), sound at both infinities.
                scores = 1.0 - 2.0 / (tl.exp2(scores * (2.0 * LOG2_E / SOFTCAP)) + 1.0)
                scores = scores * SOFTCAP
            visible = key_inside[None, :] & (keys[None, :] <= positions[:, None])
            if WINDOW > 0:
                visible = visible & (keys[None, :] > positions[:, None] - WINDOW)
            scores = tl.where(visible, scores * LOG2_E, float("-inf"))
            new_highest = tl.maximum(highest, tl.max(scores, axis=1))
            # A row that has seen no key yet must not compute -inf - -inf.
            shift = tl.where(new_highest == float("-inf"), 0.0, new_highest)
            weights = tl.exp2(scores - shift[:, None])
            fade = tl.exp2(highest - shift)
            total = total * fade + tl.sum(weights, axis=1)
            value = tl.load(
                value_cache_ptr + offsets[:, None] + dims[None, :],
                mask=key_inside[:, None] & dim_inside[None, :],
                other=0.0,
            )
            acc = tl.dot(
                weights.to(value.dtype), value, acc * fade[:, None], input_precision="ieee"
            )
            highest = new_highest

        nothing_seen = total == 0.0
        acc = acc / tl.where(nothing_seen, 1.0, total)[:, None]
        out_inside = row_inside[:, None] & dim_inside[None, :]
        if SPLITS == 1:
            out_rows = (start + tokens).to(tl.int64) * (NUM_KV_HEADS * GROUP) + heads
            tl.store(
                out_ptr + out_rows[:, None] * HEAD_DIM + dims[None, :],
                acc.to(out_ptr.dtype.element_ty),
                mask=out_inside,
            )
        else:
            seq_rows = seq.to(tl.int64) * TILE_TOKENS + tokens
            parts = (seq_rows * (NUM_KV_HEADS * GROUP) + heads) * SPLITS + split
            tl.store(partial_ptr + parts[:, None] * HEAD_DIM + dims[None, :], acc, mask=out_inside)
            log_total = tl.where(
                nothing_seen, float("-inf"), highest + tl.log2(tl.where(nothing_seen, 1.0, total))
            )
            tl.store(partial_log_ptr + parts, log_total, mask=row_inside)


@triton.jit(do_not_specialize=["longest_query"])
def _combine_kernel(
    partial_ptr,  # float32 [num_seqs * TILE_TOKENS, num_heads, SPLITS, HEAD_DIM]
    partial_log_ptr,  # float32 [num_seqs * TILE_TOKENS, num_heads, SPLITS], to base 2
    out_ptr,
    query_start_ptr,
    longest_query,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE_TOKENS: tl.constexpr,
    DIMS: tl.constexpr,
    SPLITS: tl.constexpr,
) -> None:
    """Grid (num_seqs * TILE_TOKENS, heads): adds up what the splits of a row found."""
    seq_row = tl.program_id(0)
    head = tl.program_id(1)
    seq = seq_row // TILE_TOKENS
    token = seq_row % TILE_TOKENS
    start = tl.load(query_start_ptr + seq)
    query_len = tl.load(query_start_ptr + seq + 1) - start
    if (token < query_len) & (query_len <= longest_query):
        splits = tl.arange(0, SPLITS)
        dims = tl.arange(0, DIMS)
        inside = dims < HEAD_DIM
        parts = (seq_row.to(tl.int64) * NUM_HEADS + head) * SPLITS + splits
        log_totals = tl.load(partial_log_ptr + parts)
        shares = tl.exp2(log_totals - tl.max(log_totals, axis=0))
        partial = tl.load(
            partial_ptr + parts[:, None] * HEAD_DIM + dims[None, :],
            mask=inside[None, :],
            other=0.0,
        )
        out = tl.sum(partial * shares[:, None], axis=0) / tl.sum(shares, axis=0)
        out_row = (start + token).to(tl.int64) * NUM_HEADS + head
        tl.store(out_ptr + out_row * HEAD_DIM + dims, out.to(out_ptr.dtype.element_ty), mask=inside)


def paged_attention_triton(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_tables: torch.Tensor,
    query_start: torch.Tensor,
    context_lens: torch.Tensor,
    *,
    max_query_len: int,
    max_context_len: int,
    scale: float,
    sliding_window: int = 0,
    logit_softcap: float = 0.0,
    num_splits: int | None = None,
) -> torch.Tensor:
    """Grids depend on shapes and on the two maxima only, and nothing waits for the device: a
    decode batch can be captured in a CUDA graph. A sequence without query tokens is allowed.
    `num_splits` None chooses by the size of the device.
    """
    n, num_heads, head_dim = query.shape
    _, block_size, num_kv_heads, cache_dim = key_cache.shape
    num_seqs = context_lens.shape[0]
    assert is_float_tensor(query)
    assert query.dtype == key_cache.dtype == value_cache.dtype
    assert query.stride(2) == 1
    assert key_cache.shape == value_cache.shape
    assert key_cache.is_contiguous()
    assert value_cache.is_contiguous()
    assert cache_dim == head_dim
    assert num_heads % num_kv_heads == 0
    if head_dim > MAX_HEAD_DIM:
        raise ValueError(f"paged attention takes heads of {MAX_HEAD_DIM} at most, not {head_dim}")
    for integers in (block_tables, query_start, context_lens):
        assert integers.dtype == torch.int32
        assert integers.stride(-1) == 1
    assert query_start.shape == (num_seqs + 1,)
    assert block_tables.shape[0] == num_seqs

    out = torch.empty((n, num_heads, head_dim), dtype=query.dtype, device=query.device)
    if n == 0:
        return out
    group = num_heads // num_kv_heads
    dims = max(triton.next_power_of_2(head_dim), 16)
    # One token or as many as a tile takes: a variant for each length would be compiled in the
    # middle of serving.
    most = 1 << max(SHORT_ROWS // group, 1).bit_length() - 1
    all_short = max_query_len <= most
    short_query = most if 1 < max_query_len <= most else 1
    shape = {
        "NUM_KV_HEADS": num_kv_heads,
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "BLOCK_SIZE": block_size,
        "WINDOW": sliding_window,
        "SOFTCAP": logit_softcap,
        "DIMS": dims,
    }
    tensors = (block_tables, query_start, context_lens)
    strides = (query.stride(0), query.stride(1), block_tables.stride(0), num_seqs)

    if not all_short:
        wide = head_dim > 128 or query.dtype == torch.float32
        rows = max(64 if wide else 128, triton.next_power_of_2(group))
        tile_tokens = rows // group
        _attend_kernel[(n // tile_tokens + num_seqs, num_kv_heads, 1)](
            query,
            key_cache,
            value_cache,
            out,
            out,
            out,
            *tensors,
            *strides,
            short_query + 1,
            max_query_len,
            scale,
            **shape,
            TILE_TOKENS=tile_tokens,
            ROWS=rows,
            KEYS=32 if wide else 64,
            SPLITS=1,
            ONE_TILE_EACH=False,
            num_warps=4 if wide else 8,
            num_stages=2,
        )
        if n == num_seqs * max_query_len:  # every sequence is as long: no short one is left
            return out

    rows = max(16, triton.next_power_of_2(short_query * group))
    if num_splits is None:
        num_splits = _choose_splits(num_seqs * num_kv_heads, max_context_len, query.device)
    partial = partial_log = out
    if num_splits > 1:
        parts = (num_seqs * short_query, num_heads, num_splits)
        partial = torch.empty((*parts, head_dim), dtype=torch.float32, device=query.device)
        partial_log = torch.empty(parts, dtype=torch.float32, device=query.device)
    _attend_kernel[(num_seqs, num_kv_heads, num_splits)](
        query,
        key_cache,
        value_cache,
        out,
        partial,
        partial_log,
        *tensors,
        *strides,
        1,
        short_query,
        scale,
        **shape,
        TILE_TOKENS=short_query,
        ROWS=rows,
        KEYS=32 if dims > 128 else 64,
        SPLITS=num_splits,
        ONE_TILE_EACH=True,
        num_warps=4,
        num_stages=2 if query.dtype == torch.float32 or dims > 128 else 3,
    )
    if num_splits > 1:
        _combine_kernel[(num_seqs * short_query, num_heads)](
            partial,
            partial_log,
            out,
            query_start,
            short_query,
            NUM_HEADS=num_heads,
            HEAD_DIM=head_dim,
            TILE_TOKENS=short_query,
            DIMS=dims,
            SPLITS=num_splits,
            num_warps=4,
        )
    return out


def _choose_splits(num_programs: int, max_context_len: int, device: torch.device) -> int:
    """Enough programs for every multiprocessor; a power of two, to compile few variants."""
    if device.type != "cuda":
        return 1
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    wanted = PROGRAMS_PER_PROCESSOR * processors // num_programs
    useful = max_context_len // KEYS_PER_SPLIT
    return 1 << (max(min(wanted, useful, MAX_SPLITS), 1).bit_length() - 1)


def paged_attention(
    query: torch.Tensor,  # [n, num_heads, head_dim]
    key_cache: torch.Tensor,  # [blocks, block_size, num_kv_heads, head_dim]
    value_cache: torch.Tensor,
    block_tables: torch.Tensor,  # int32 [num_seqs, max_blocks]
    query_start: torch.Tensor,  # int32 [num_seqs + 1]
    context_lens: torch.Tensor,  # int32 [num_seqs]
    *,
    max_query_len: int,
    max_context_len: int,
    scale: float,
    sliding_window: int = 0,
    logit_softcap: float = 0.0,
    plans: dict[int, ReferencePlan] | None = None,
) -> torch.Tensor:
    """`plans`: a dict that lives as long as the tables and lengths do; the reference's notes."""
    kept: dict[str, Any] = {} if query.is_cuda else {"plans": plans}
    op = paged_attention_triton if query.is_cuda else paged_attention_ref
    return op(
        query,
        key_cache,
        value_cache,
        block_tables,
        query_start,
        context_lens,
        max_query_len=max_query_len,
        max_context_len=max_context_len,
        scale=scale,
        sliding_window=sliding_window,
        logit_softcap=logit_softcap,
        **kept,
    )
