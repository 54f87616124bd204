"""Causal attention over the paged KV cache (PagedAttention, arXiv:2309.06180) for ragged batches:
decode, chunked prefill and forced tokens; grouped-query heads, sliding window, soft-capped scores,
attention sinks.

Query token `j` of a sequence with `q` query tokens and `c` context tokens sits at position
`c - q + j` and attends to keys `0 .. c - q + j`, or the last `sliding_window` of them if it is not
0. A head's sink is one more score of its softmax, with a value of 0: it takes weight from the keys
(gpt-oss, arXiv:2508.10925; the idea is that of StreamingLLM, arXiv:2309.17453).
"""

from typing import Any

import torch

from formgate.kernels.attention_kernels import attend_kernel, combine_kernel
from formgate.kernels.jit import is_float_tensor, triton
from formgate.kernels.paged_attention_ref import ReferencePlan, paged_attention_ref

__all__ = [
    "choose_splits",
    "num_processors",
    "paged_attention",
    "paged_attention_ref",
    "paged_attention_triton",
]

MAX_HEAD_DIM = 256
SHORT_ROWS = 64  # rows (query tokens * heads of a group) of a tile whose context may be split
LONG_QUERY = 1024  # longest query in the batch from which large tiles are faster
KEYS_PER_SPLIT = 256  # fewer keys do not pay for another program and the combination
MAX_SPLITS = 32
PROGRAMS_PER_PROCESSOR = 4  # two run at a time; the others hide their start and end


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
    sinks: torch.Tensor | None = None,
    num_splits: int | None = None,
) -> torch.Tensor:
    """Arguments as for `paged_attention`. Grids depend only on shapes and on the two maxima, and
    nothing synchronizes, so a decode batch can be captured in a CUDA graph. A sequence may have no
    query token. `num_splits`: parts of each context; None: chosen by the size of the device.
    Raises ValueError if the head dimension exceeds MAX_HEAD_DIM.
    """
    n, num_heads, head_dim = query.shape
    _, block_size, num_kv_heads, cache_dim = key_cache.shape
    num_seqs = context_lens.shape[0]
    assert is_float_tensor(query)
    assert scale > 0.0
    assert query.dtype == key_cache.dtype == value_cache.dtype
    assert query.stride(2) == 1
    assert key_cache.shape == value_cache.shape
    assert key_cache.is_contiguous()
    assert value_cache.is_contiguous()
    assert cache_dim == head_dim
    assert num_heads % num_kv_heads == 0
    if head_dim > MAX_HEAD_DIM:
        raise ValueError(f"head_dim {head_dim} is not supported: the largest is {MAX_HEAD_DIM}")
    for integers in (block_tables, query_start, context_lens):
        assert integers.dtype == torch.int32
        assert integers.stride(-1) == 1
    assert query_start.shape == (num_seqs + 1,)
    assert block_tables.shape[0] == num_seqs
    assert sinks is None or (sinks.shape == (num_heads,) and sinks.dtype == torch.float32)

    out = torch.empty((n, num_heads, head_dim), dtype=query.dtype, device=query.device)
    if n == 0:
        return out
    group = num_heads // num_kv_heads
    dims = max(triton.next_power_of_2(head_dim), 16)
    # Short tiles hold one token or the most that fit: a variant for each length would be compiled
    # while serving.
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
        "SINKS": sinks is not None,
        "DIMS": dims,
    }
    tensors = (block_tables, query_start, context_lens, sinks)
    strides = (query.stride(0), query.stride(1), block_tables.stride(0), num_seqs)

    if not all_short:
        # Large tiles read keys less often; small tiles waste less on a short prompt.
        wide = head_dim > 128 or query.dtype == torch.float32
        large = not wide and max_query_len >= LONG_QUERY
        rows = max(128 if large else 64, triton.next_power_of_2(group))
        tile_tokens = rows // group
        attend_kernel[(n // tile_tokens + num_seqs, num_kv_heads, 1)](
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
            KEYS=32 if wide else 128 if large else 64,
            SPLITS=1,
            ONE_TILE_EACH=False,
            num_warps=8 if large else 4,
            num_stages=3 if large else 2,
        )
        if n == num_seqs * max_query_len:  # all queries have the same length, so none is short
            return out

    rows = max(16, triton.next_power_of_2(short_query * group))
    if num_splits is None:
        num_splits = choose_splits(num_seqs * num_kv_heads, max_context_len, query.device)
    partial = partial_log = out
    if num_splits > 1:
        parts = (num_seqs * short_query, num_heads, num_splits)
        partial = torch.empty((*parts, head_dim), dtype=torch.float32, device=query.device)
        partial_log = torch.empty(parts, dtype=torch.float32, device=query.device)
    attend_kernel[(num_seqs, num_kv_heads, num_splits)](
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
        combine_kernel[(num_seqs * short_query, num_heads)](
            partial,
            partial_log,
            out,
            query_start,
            sinks,
            short_query,
            NUM_HEADS=num_heads,
            HEAD_DIM=head_dim,
            TILE_TOKENS=short_query,
            DIMS=dims,
            SPLITS=num_splits,
            SINKS=sinks is not None,
            num_warps=4,
        )
    return out


def choose_splits(num_programs: int, max_context_len: int, device: torch.device) -> int:
    """Number of parts to split contexts into, so that every multiprocessor has enough programs. A
    power of two, to compile few variants. `num_programs`: sequences * KV heads.
    """
    processors = num_processors(device)
    wanted = PROGRAMS_PER_PROCESSOR * processors // num_programs
    useful = max_context_len // KEYS_PER_SPLIT
    return 1 << (max(min(wanted, useful, MAX_SPLITS), 1).bit_length() - 1)


def num_processors(device: torch.device) -> int:
    """Number of multiprocessors of a GPU; 0 for a CPU."""
    if device.type != "cuda":
        return 0
    return torch.cuda.get_device_properties(device).multi_processor_count


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
    sinks: torch.Tensor | None = None,  # float32 [num_heads]
    plans: dict[int, ReferencePlan] | None = None,
) -> torch.Tensor:
    """Returns [n, num_heads, head_dim], by Triton on CUDA and `paged_attention_ref` elsewhere.

    `plans`: an empty dict shared by all layers of a step; the reference caches its plan there.
    """
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
        sinks=sinks,
        **kept,
    )
