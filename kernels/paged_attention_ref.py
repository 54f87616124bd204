"""Paged attention in plain torch: the truth that the kernel is tested against, and the way that
every answer on a CPU is computed. Decoded rows go together, prefill chunks one at a time.
"""

import torch
import torch.nn.functional as F

HEADS_TOGETHER = 4
# Rows share a gather while this many masked keys are added at most: about what a call costs.
MAX_PADDING = 512


def paged_attention_ref(
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
) -> torch.Tensor:
    """The maxima are for kernels, which must know their grid; here the lengths are read."""
    contexts: list[int] = context_lens.tolist()
    if max_query_len == 1 and query.shape[0] == len(contexts):
        return _decode(
            query,
            key_cache,
            value_cache,
            block_tables,
            contexts,
            scale,
            sliding_window,
            logit_softcap,
        )
    starts: list[int] = query_start.tolist()
    out = torch.empty_like(query)
    decoded: list[int] = []
    for seq, context in enumerate(contexts):
        start, end = starts[seq], starts[seq + 1]
        if end - start == 1:
            decoded.append(seq)
        elif end > start:
            out[start:end] = _prefill(
                query[start:end],
                key_cache,
                value_cache,
                block_tables[seq],
                context,
                scale,
                sliding_window,
                logit_softcap,
            )
    if decoded:
        rows = torch.tensor([starts[seq] for seq in decoded], device=query.device)
        out[rows] = _decode(
            query[rows],
            key_cache,
            value_cache,
            block_tables[torch.tensor(decoded, device=query.device)],
            [contexts[seq] for seq in decoded],
            scale,
            sliding_window,
            logit_softcap,
        )
    return out


def _decode(
    query: torch.Tensor,  # [num_seqs, num_heads, head_dim]
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_tables: torch.Tensor,
    contexts: list[int],
    scale: float,
    window: int,
    softcap: float,
) -> torch.Tensor:
    groups = _similar(contexts)
    if len(groups) == 1:
        return _decode_together(
            query, key_cache, value_cache, block_tables, contexts, scale, window, softcap
        )
    out = torch.empty_like(query)
    for group in groups:
        rows = torch.tensor(group, device=query.device)
        out[rows] = _decode_together(
            query.index_select(0, rows),
            key_cache,
            value_cache,
            block_tables.index_select(0, rows),
            [contexts[row] for row in group],
            scale,
            window,
            softcap,
        )
    return out


def _similar(contexts: list[int]) -> list[list[int]]:
    """Rows in groups of about the same context, so that a long one does not pad the others."""
    if max(contexts) * len(contexts) - sum(contexts) <= MAX_PADDING:
        return [list(range(len(contexts)))]
    groups: list[list[int]] = []
    longest = padding = 0
    for row in sorted(range(len(contexts)), key=contexts.__getitem__, reverse=True):
        padding += longest - contexts[row]
        if not groups or padding > MAX_PADDING:
            groups.append([])
            longest, padding = contexts[row], 0
        groups[-1].append(row)
    return groups


def _decode_together(
    query: torch.Tensor,  # [num_seqs, num_heads, head_dim]
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_tables: torch.Tensor,
    contexts: list[int],
    scale: float,
    window: int,
    softcap: float,
) -> torch.Tensor:
    """A gathered key is one row of all its heads, and a query a row that is zero outside its own
    KV head: a product of full rows is faster than one per KV head on strided slices, although it
    multiplies zeros.
    """
    num_seqs, num_heads, head_dim = query.shape
    block_size, num_kv_heads = key_cache.shape[1:3]
    first_block = max(min(contexts) - window, 0) // block_size if window else 0
    end_block = -(-max(contexts) // block_size)
    tables = block_tables[:, first_block:end_block].flatten()
    first, end = first_block * block_size, end_block * block_size

    penalty: torch.Tensor | None = None
    if window or min(contexts) < end:
        positions = torch.arange(first, end, device=query.device)
        ends = torch.tensor(contexts, device=query.device).unsqueeze(1)
        hidden = positions >= ends
        if window:
            hidden |= positions < ends - window
        penalty = query.new_zeros(hidden.shape, dtype=torch.float32)
        penalty = penalty.masked_fill_(hidden, float("-inf")).unsqueeze(1)

    together = min(num_kv_heads, HEADS_TOGETHER)
    group = num_heads // num_kv_heads
    queries = query.float().view(num_seqs, num_kv_heads, group, 1, head_dim)
    keys = _gather(key_cache, tables, num_seqs)
    all_weights: list[torch.Tensor] = []
    for low in range(0, num_kv_heads, together):
        part = keys[:, :, low : low + together].flatten(2)  # [num_seqs, keys, part * head_dim]
        size = min(together, num_kv_heads - low)
        own = torch.eye(size, device=query.device).mul_(scale).view(size, 1, size, 1)
        spread = (queries[:, low : low + size] * own).view(num_seqs, size * group, -1)
        if softcap:
            scores = torch.bmm(spread, part.transpose(1, 2)).div_(softcap).tanh_().mul_(softcap)
            if penalty is not None:
                scores += penalty
        elif penalty is not None:
            scores = torch.baddbmm(penalty, spread, part.transpose(1, 2))
        else:
            scores = torch.bmm(spread, part.transpose(1, 2))
        all_weights.append(scores.softmax(-1))
    del keys  # the values take its place in the CPU's cache

    values = _gather(value_cache, tables, num_seqs)
    outs: list[torch.Tensor] = []
    for low, weights in zip(range(0, num_kv_heads, together), all_weights, strict=True):
        part = values[:, :, low : low + together].flatten(2)
        size = min(together, num_kv_heads - low)
        mixed = torch.bmm(weights, part).view(num_seqs, size, group, size, head_dim)
        own_part = mixed.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
        outs.append(own_part.reshape(num_seqs, size * group, head_dim))
    return (outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)).to(query.dtype)


def _prefill(
    query: torch.Tensor,  # [query_len, num_heads, head_dim], of one sequence
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,  # int32 [max_blocks]
    context: int,
    scale: float,
    window: int,
    softcap: float,
) -> torch.Tensor:
    query_len, _, head_dim = query.shape
    block_size, num_kv_heads = key_cache.shape[1:3]
    first_block = max(context - query_len - window + 1, 0) // block_size if window else 0
    first = first_block * block_size
    table = block_table[first_block : -(-context // block_size)]
    # [1, num_kv_heads, keys, head_dim]
    keys = _gather(key_cache, table, 1)[:, : context - first].transpose(1, 2)
    values = _gather(value_cache, table, 1)[:, : context - first].transpose(1, 2)
    queries = query.float().transpose(0, 1)  # [num_heads, query_len, head_dim]

    visible: torch.Tensor | None = None
    if softcap or window or query_len != context:
        at = torch.arange(context - query_len, context, device=query.device).unsqueeze(1)
        positions = torch.arange(first, context, device=query.device)
        visible = positions <= at
        if window:
            visible &= positions > at - window
    if not softcap:
        out = F.scaled_dot_product_attention(
            queries.unsqueeze(0),
            keys,
            values,
            attn_mask=visible,
            is_causal=visible is None,
            scale=scale,
            enable_gqa=True,
        ).squeeze(0)
    else:
        assert visible is not None
        grouped = queries.reshape(num_kv_heads, -1, query_len, head_dim)
        scores = torch.matmul(grouped, keys.transpose(2, 3).squeeze(0).unsqueeze(1)).mul_(scale)
        scores = scores.div_(softcap).tanh_().mul_(softcap)
        scores = scores.masked_fill_(~visible, float("-inf"))
        out = torch.matmul(scores.softmax(-1), values.squeeze(0).unsqueeze(1)).flatten(0, 1)
    return out.transpose(0, 1).to(query.dtype)


def _gather(cache: torch.Tensor, tables: torch.Tensor, num_seqs: int) -> torch.Tensor:
    """float32 [num_seqs, keys, num_kv_heads, head_dim]"""
    blocks = cache.index_select(0, tables)
    return blocks.float().view(num_seqs, -1, *cache.shape[2:])
