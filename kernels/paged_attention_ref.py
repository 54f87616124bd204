"""Paged attention in plain torch: the reference for the kernel's tests, and the implementation on
CPUs. Decode rows and prefill chunks are computed one at a time, straight from the cache where their
blocks lie in order. Soft-capped decode rows are computed together.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from formgate.kernels.decode_rows import DecodeRows, can_decode_rows, decode_rows, plan_rows

HEADS_TOGETHER = 4
# Most masked keys that a group of decode rows is padded with; more cost as much as another call.
MAX_PADDING = 512
# Keys per product. BLAS splits a long sum at places that depend on its length. Splitting it here,
# always at the same offsets, makes a row's sum independent of its padding.
KEYS_TOGETHER = 256


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Sequences with one query token each and contexts of similar length."""

    tokens: torch.Tensor | None  # int64 [num_seqs], rows of the query; None: all, in order
    num_seqs: int
    blocks: torch.Tensor  # int32 [num_seqs * blocks], to gather
    penalty: torch.Tensor | None  # float32 [num_seqs, 1, keys], -inf for masked keys; None: none


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Several query tokens of one sequence: rows `start` to `end` of the query."""

    start: int
    end: int
    blocks: torch.Tensor  # int32 [blocks], to gather
    num_keys: int
    visible: torch.Tensor | None  # bool [tokens, keys]; None: plain causal


@dataclass(frozen=True, slots=True)
class ReferencePlan:
    """Everything that depends only on lengths and tables, and is therefore shared by all layers."""

    groups: tuple[DecodeGroup, ...]
    chunks: tuple[PrefillChunk, ...]
    rows: DecodeRows | None = None  # None: decode rows are in groups


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
    sinks: torch.Tensor | None = None,  # float32 [num_heads]
    plans: dict[int, ReferencePlan] | None = None,
) -> torch.Tensor:
    """Returns [n, num_heads, head_dim]. Reads the lengths on the host and ignores the two maxima,
    which the kernels need for their grids.

    `plans`: cache of plans by window. The caller clears it when tables or lengths change.
    """
    plan = plans.get(sliding_window) if plans is not None else None
    if plan is None:
        plan = plan_attention(
            block_tables,
            query_start,
            context_lens,
            block_size=key_cache.shape[1],
            window=sliding_window,
            always_masked=bool(logit_softcap) or sinks is not None,
            singly=not logit_softcap and sinks is None and can_decode_rows(query, key_cache),
        )
        if plans is not None:
            plans[sliding_window] = plan
    if plan.rows is not None and len(plan.rows.rows) == query.shape[0]:
        rows = decode_rows(query, key_cache, value_cache, plan.rows, scale)
        return rows[0] if len(rows) == 1 else torch.cat(rows)
    if len(plan.groups) == 1 and not plan.chunks and plan.groups[0].tokens is None:
        return _decode(query, key_cache, value_cache, plan.groups[0], scale, logit_softcap, sinks)
    out = torch.empty_like(query)
    for group in plan.groups:
        part = query if group.tokens is None else query.index_select(0, group.tokens)
        together = _decode(part, key_cache, value_cache, group, scale, logit_softcap, sinks)
        if group.tokens is None:
            out.copy_(together)
        else:
            out.index_copy_(0, group.tokens, together)
    if plan.rows is not None:
        rows = decode_rows(query, key_cache, value_cache, plan.rows, scale)
        for row, one in zip(plan.rows.rows, rows, strict=True):
            out[row.token] = one[0]
    for chunk in plan.chunks:
        part = query[chunk.start : chunk.end]
        attended = _prefill(part, key_cache, value_cache, chunk, scale, logit_softcap, sinks)
        out[chunk.start : chunk.end] = attended
    return out


def plan_attention(
    block_tables: torch.Tensor,
    query_start: torch.Tensor,
    context_lens: torch.Tensor,
    *,
    block_size: int,
    window: int,
    always_masked: bool,
    singly: bool,
) -> ReferencePlan:
    """`always_masked`: build an explicit mask even for a plain causal chunk. `singly`: plan decode
    rows one by one, not in groups.
    """
    contexts: list[int] = context_lens.tolist()
    starts: list[int] = query_start.tolist()
    decoded: list[int] = []
    chunks: list[PrefillChunk] = []
    for seq, context in enumerate(contexts):
        start, end = starts[seq], starts[seq + 1]
        if end - start == 1:
            decoded.append(seq)
        elif end > start:
            chunks.append(
                _plan_chunk(
                    start, end, block_tables[seq], context, block_size, window, always_masked
                )
            )
    if singly:
        places = [
            (starts[seq], contexts[seq], block_tables[seq]) for seq in decoded if contexts[seq]
        ]
        rows = plan_rows(places, block_size, window) if places else None
        return ReferencePlan((), tuple(chunks), rows)
    groups: list[DecodeGroup] = []
    for seqs in _similar(decoded, contexts):
        all_in_order = len(seqs) == len(contexts) == starts[-1]
        tables = block_tables
        if not all_in_order:
            tables = block_tables.index_select(0, torch.tensor(seqs, device=block_tables.device))
        group = [contexts[seq] for seq in seqs]
        tokens = None if all_in_order else [starts[seq] for seq in seqs]
        groups.append(_plan_group(tokens, tables, group, block_size, window))
    return ReferencePlan(tuple(groups), tuple(chunks))


def _plan_group(
    tokens: list[int] | None,
    tables: torch.Tensor,
    contexts: list[int],
    block_size: int,
    window: int,
) -> DecodeGroup:
    device = tables.device
    # Rounded down to a multiple of KEYS_TOGETHER, so that the group does not change a row's sums.
    first_key = max(min(contexts) - window, 0) // KEYS_TOGETHER * KEYS_TOGETHER if window else 0
    first_block = first_key // block_size
    end_block = -(-max(contexts) // block_size)
    first, end = first_block * block_size, end_block * block_size
    penalty: torch.Tensor | None = None
    if window or min(contexts) < end:
        positions = torch.arange(first, end, device=device)
        ends = torch.tensor(contexts, device=device).unsqueeze(1)
        hidden = positions >= ends
        if window:
            hidden |= positions < ends - window
        penalty = torch.zeros(hidden.shape, dtype=torch.float32, device=device)
        penalty = penalty.masked_fill_(hidden, float("-inf")).unsqueeze(1)
    blocks = tables[:, first_block:end_block]
    if min(contexts) <= end - block_size:
        # Past the end of its table a row reads its own first block again: another sequence's block
        # may hold NaN, and 0 times NaN is NaN.
        held = torch.tensor([-(-c // block_size) - first_block for c in contexts], device=device)
        past = torch.arange(end_block - first_block, device=device) >= held.unsqueeze(1)
        blocks = torch.where(past, blocks[:, :1], blocks)
    return DecodeGroup(
        None if tokens is None else torch.tensor(tokens, device=device),
        len(contexts),
        blocks.flatten(),
        penalty,
    )


def _plan_chunk(
    start: int,
    end: int,
    block_table: torch.Tensor,
    context: int,
    block_size: int,
    window: int,
    always_masked: bool,
) -> PrefillChunk:
    query_len = end - start
    first_block = max(context - query_len - window + 1, 0) // block_size if window else 0
    first = first_block * block_size
    visible: torch.Tensor | None = None
    if always_masked or window or query_len != context:
        at = torch.arange(context - query_len, context, device=block_table.device).unsqueeze(1)
        positions = torch.arange(first, context, device=block_table.device)
        visible = positions <= at
        if window:
            visible &= positions > at - window
    blocks = block_table[first_block : -(-context // block_size)]
    return PrefillChunk(start, end, blocks, context - first, visible)


def _similar(seqs: list[int], contexts: list[int]) -> Iterator[list[int]]:
    """Groups of sequences with contexts of similar length, to bound the padding."""
    if not seqs:
        return
    lengths = [contexts[seq] for seq in seqs]
    if max(lengths) * len(lengths) - sum(lengths) <= MAX_PADDING:
        yield seqs
        return
    group: list[int] = []
    longest = padding = 0
    for seq in sorted(seqs, key=contexts.__getitem__, reverse=True):
        padding += longest - contexts[seq]
        if group and padding > MAX_PADDING:
            yield group
            group = []
        if not group:
            longest, padding = contexts[seq], 0
        group.append(seq)
    yield group


def _decode(
    query: torch.Tensor,  # [num_seqs, num_heads, head_dim]
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    group: DecodeGroup,
    scale: float,
    softcap: float,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attention of one query token per sequence. Keys of several KV heads form one row, and a query
    is a row that is zero outside its own KV head: one product of full rows multiplies zeros, but is
    faster than one product per KV head on strided slices.
    """
    num_seqs, num_heads, head_dim = query.shape
    num_kv_heads = key_cache.shape[2]
    together = min(num_kv_heads, HEADS_TOGETHER)
    heads = num_heads // num_kv_heads  # query heads per KV head
    queries = query.float().view(num_seqs, num_kv_heads, heads, head_dim)
    keys = _gather(key_cache, group.blocks, num_seqs)
    all_weights: list[torch.Tensor] = []
    for low in range(0, num_kv_heads, together):
        size = min(together, num_kv_heads - low)
        part = keys[:, :, low : low + size].flatten(2)  # [num_seqs, keys, size * head_dim]
        spread = queries.new_zeros(num_seqs, size, heads, size, head_dim)
        torch.mul(
            queries[:, low : low + size].permute(0, 2, 3, 1),
            scale,
            out=spread.diagonal(dim1=1, dim2=3),
        )
        spread = spread.view(num_seqs, size * heads, size * head_dim)
        if softcap:
            scores = torch.bmm(spread, part.transpose(1, 2)).div_(softcap).tanh_().mul_(softcap)
            if group.penalty is not None:
                scores += group.penalty
        elif group.penalty is not None:
            scores = torch.baddbmm(group.penalty, spread, part.transpose(1, 2))
        else:
            scores = torch.bmm(spread, part.transpose(1, 2))
        of_heads = None if sinks is None else sinks[low * heads : (low + size) * heads, None]
        all_weights.append(_softmax(scores, of_heads))
    del keys  # frees its memory, which the values then find in the CPU's cache

    values = _gather(value_cache, group.blocks, num_seqs)
    outs: list[torch.Tensor] = []
    for low, weights in zip(range(0, num_kv_heads, together), all_weights, strict=True):
        part = values[:, :, low : low + together].flatten(2)
        size = min(together, num_kv_heads - low)
        mixed = _mix(weights, part).view(num_seqs, size, heads, size, head_dim)
        own_part = mixed.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
        outs.append(own_part.reshape(num_seqs, size * heads, head_dim))
    return (outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)).to(query.dtype)


def _mix(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """[num_seqs, rows, keys] @ [num_seqs, keys, columns], summed in runs of KEYS_TOGETHER keys."""
    keys = KEYS_TOGETHER
    mixed = torch.bmm(weights[..., :keys], values[:, :keys])
    for start in range(keys, weights.shape[-1], keys):
        end = start + keys
        mixed.baddbmm_(weights[..., start:end], values[:, start:end])
    return mixed


def _prefill(
    query: torch.Tensor,  # [query_len, num_heads, head_dim], of one sequence
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    chunk: PrefillChunk,
    scale: float,
    softcap: float,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    query_len, _, head_dim = query.shape
    num_kv_heads = key_cache.shape[2]
    # [1, num_kv_heads, keys, head_dim]
    keys = _gather(key_cache, chunk.blocks, 1)[:, : chunk.num_keys].transpose(1, 2)
    values = _gather(value_cache, chunk.blocks, 1)[:, : chunk.num_keys].transpose(1, 2)
    queries = query.float().transpose(0, 1)  # [num_heads, query_len, head_dim]
    if not softcap and sinks is None:
        out = F.scaled_dot_product_attention(
            queries.unsqueeze(0),
            keys,
            values,
            attn_mask=chunk.visible,
            is_causal=chunk.visible is None,
            scale=scale,
            enable_gqa=True,
        ).squeeze(0)
    else:
        assert chunk.visible is not None
        grouped = queries.reshape(num_kv_heads, -1, query_len, head_dim)
        scores = torch.matmul(grouped, keys.transpose(2, 3).squeeze(0).unsqueeze(1)).mul_(scale)
        if softcap:
            scores = scores.div_(softcap).tanh_().mul_(softcap)
        scores = scores.masked_fill_(~chunk.visible, float("-inf"))
        of_heads = None if sinks is None else sinks.view(num_kv_heads, -1, 1, 1)
        weights = _softmax(scores, of_heads)
        out = torch.matmul(weights, values.squeeze(0).unsqueeze(1)).flatten(0, 1)
    return out.transpose(0, 1).to(query.dtype)


def _softmax(scores: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Over the last dimension, with the sink of each row as one more score."""
    if sinks is None:
        return scores.softmax(-1)
    # The sink comes first: at the end, its place in the sum would depend on the padding.
    sinks = sinks.expand(*scores.shape[:-1], 1)
    return torch.cat([sinks, scores], dim=-1).softmax(-1)[..., 1:]


def _gather(cache: torch.Tensor, tables: torch.Tensor, num_seqs: int) -> torch.Tensor:
    """The blocks of `tables` as float32 [num_seqs, keys, num_kv_heads, head_dim]"""
    blocks = cache.index_select(0, tables)
    return blocks.float().view(num_seqs, -1, *cache.shape[2:])
