"""Triton kernels of paged attention: online softmax over tiles of keys, and the combination of the
partial results of a split context. `paged_attention.py` chooses tiles and launches.
"""

from typing import Any

from formgate.kernels.jit import tl, triton

__all__ = ["attend_kernel", "combine_kernel"]


@triton.jit
def _attend_keys(
    query,
    acc,
    total,
    highest,
    positions,
    key_cache_ptr,
    value_cache_ptr,
    table_ptr,
    first_key,
    end_key,
    kv_head,
    scale,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    KEYS: tl.constexpr,
    DIMS: tl.constexpr,
    MASKED: tl.constexpr,  # False: every row sees all of these keys, a multiple of KEYS
) -> Any:
    """Online softmax (Milakov and Gimelshein, arXiv:1805.02867) over a range of keys."""
    LOG2_E: tl.constexpr = 1.4426950408889634
    dims = tl.arange(0, DIMS)
    for base in range(first_key, end_key, KEYS):
        keys = base + tl.arange(0, KEYS)
        key_inside = keys < end_key if MASKED else tl.full((KEYS,), True, tl.int1)
        if MASKED:
            block = tl.load(table_ptr + keys // BLOCK_SIZE, mask=key_inside, other=0)
        else:
            block = tl.load(table_ptr + keys // BLOCK_SIZE)
        # int64, because a large cache has more than 2**31 elements.
        slots = block.to(tl.int64) * BLOCK_SIZE + keys % BLOCK_SIZE
        offsets = (slots * NUM_KV_HEADS + kv_head) * HEAD_DIM
        key_ptr = key_cache_ptr + offsets[None, :] + dims[:, None]
        value_ptr = value_cache_ptr + offsets[:, None] + dims[None, :]
        if DIMS != HEAD_DIM:
            dim_inside = dims < HEAD_DIM
            key = tl.load(key_ptr, mask=key_inside[None, :] & dim_inside[:, None], other=0.0)
            value = tl.load(value_ptr, mask=key_inside[:, None] & dim_inside[None, :], other=0.0)
        elif MASKED:
            key = tl.load(key_ptr, mask=key_inside[None, :], other=0.0)
            value = tl.load(value_ptr, mask=key_inside[:, None], other=0.0)
        else:
            key = tl.load(key_ptr)
            value = tl.load(value_ptr)
        scores = tl.dot(query, key, input_precision="ieee")
        factor = scale * LOG2_E
        if SOFTCAP > 0.0:
            # tanh(x) = 1 - 2 / (exp(2x) + 1), which is exact at both infinities.
            scores = 1.0 - 2.0 / (tl.exp2(scores * (2.0 / SOFTCAP * factor)) + 1.0)
            factor = SOFTCAP * LOG2_E
        if MASKED:
            visible = key_inside[None, :] & (keys[None, :] <= positions[:, None])
            if WINDOW > 0:
                visible = visible & (keys[None, :] > positions[:, None] - WINDOW)
            scores = tl.where(visible, scores, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(scores, axis=1) * factor)
        # Avoid -inf - -inf in a row that has seen no key yet.
        shift = tl.where(new_highest == float("-inf"), 0.0, new_highest) if MASKED else new_highest
        weights = tl.exp2(scores * factor - shift[:, None])
        fade = tl.exp2(highest - shift)
        total = total * fade + tl.sum(weights, axis=1)
        acc = tl.dot(weights.to(value.dtype), value, acc * fade[:, None], input_precision="ieee")
        highest = new_highest
    return acc, total, highest


# These arguments differ from step to step. Specializing on 1 and on multiples of 16 would compile
# variants while serving, and delay every request by a second.
@triton.jit(do_not_specialize=["table_stride", "num_seqs", "shortest_query", "longest_query"])
def attend_kernel(
    query_ptr,
    key_cache_ptr,
    value_cache_ptr,
    out_ptr,
    partial_ptr,
    partial_log_ptr,
    block_tables_ptr,
    query_start_ptr,
    context_lens_ptr,
    sinks_ptr,
    query_stride,
    query_head_stride,
    table_stride,
    num_seqs,
    shortest_query,
    longest_query,
    scale,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,  # query heads per KV head; they share a tile
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SINKS: tl.constexpr,  # with splits, `combine_kernel` joins them
    TILE_TOKENS: tl.constexpr,
    ROWS: tl.constexpr,  # rows of a tile: TILE_TOKENS * GROUP, padded
    KEYS: tl.constexpr,
    DIMS: tl.constexpr,
    SPLITS: tl.constexpr,
    ONE_TILE_EACH: tl.constexpr,
) -> None:
    """Grid (tiles, KV heads, splits): one tile of query tokens attends to one range of its keys."""
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    seq = tile
    tile_in_seq = 0
    if not ONE_TILE_EACH:
        # Sequence i starts at tile query_start[i] // TILE_TOKENS + i, so the grid follows from
        # the shapes alone; a few tiles are left over and return at once.
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
        table_ptr = block_tables_ptr + seq.to(tl.int64) * table_stride
        # A loop without masks covers the keys that every row of the tile attends to. A tile of one
        # short query skips it: the extra pipeline start costs more than the masks.
        plain_end = first_key
        if not ONE_TILE_EACH and WINDOW == 0:
            seen_by_all = tl.minimum(end_key, first_position + 1) - first_key
            plain_end += tl.maximum(seen_by_all, 0) // KEYS * KEYS
            acc, total, highest = _attend_keys(
                query,
                acc,
                total,
                highest,
                positions,
                key_cache_ptr,
                value_cache_ptr,
                table_ptr,
                first_key,
                plain_end,
                kv_head,
                scale,
                NUM_KV_HEADS=NUM_KV_HEADS,
                HEAD_DIM=HEAD_DIM,
                BLOCK_SIZE=BLOCK_SIZE,
                WINDOW=WINDOW,
                SOFTCAP=SOFTCAP,
                KEYS=KEYS,
                DIMS=DIMS,
                MASKED=False,
            )
        acc, total, highest = _attend_keys(
            query,
            acc,
            total,
            highest,
            positions,
            key_cache_ptr,
            value_cache_ptr,
            table_ptr,
            plain_end,
            end_key,
            kv_head,
            scale,
            NUM_KV_HEADS=NUM_KV_HEADS,
            HEAD_DIM=HEAD_DIM,
            BLOCK_SIZE=BLOCK_SIZE,
            WINDOW=WINDOW,
            SOFTCAP=SOFTCAP,
            KEYS=KEYS,
            DIMS=DIMS,
            MASKED=True,
        )

        if SINKS and SPLITS == 1:
            sink = tl.load(sinks_ptr + heads, mask=row_inside, other=0.0) * 1.4426950408889634
            shift = tl.maximum(highest, sink)
            fade = tl.exp2(highest - shift)
            acc *= fade[:, None]
            total = total * fade + tl.exp2(sink - shift)
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
def combine_kernel(
    partial_ptr,  # float32 [num_seqs * TILE_TOKENS, num_heads, SPLITS, HEAD_DIM]
    partial_log_ptr,  # float32 [num_seqs * TILE_TOKENS, num_heads, SPLITS], to base 2
    out_ptr,
    query_start_ptr,
    sinks_ptr,
    longest_query,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE_TOKENS: tl.constexpr,
    DIMS: tl.constexpr,
    SPLITS: tl.constexpr,
    SINKS: tl.constexpr,
) -> None:
    """Grid (num_seqs * TILE_TOKENS, heads): combines the partial results of a row's splits, and
    joins the head's sink.
    """
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
        highest = tl.max(log_totals, axis=0)
        if SINKS:
            sink = tl.load(sinks_ptr + head) * 1.4426950408889634
            highest = tl.maximum(highest, sink)
        shares = tl.exp2(log_totals - highest)
        partial = tl.load(
            partial_ptr + parts[:, None] * HEAD_DIM + dims[None, :],
            mask=inside[None, :],
            other=0.0,
        )
        out = tl.sum(partial * shares[:, None], axis=0)
        total = tl.sum(shares, axis=0)
        if SINKS:
            total += tl.exp2(sink - highest)
        out = out / total
        out_row = (start + token).to(tl.int64) * NUM_HEADS + head
        tl.store(out_ptr + out_row * HEAD_DIM + dims, out.to(out_ptr.dtype.element_ty), mask=inside)
