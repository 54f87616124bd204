"""Attention of one query token per sequence on a CPU, one sequence at a time, by torch's kernel. It
reads the paged cache in place where a sequence's blocks lie in order, and gathers other blocks.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class DecodeRow:
    """One query token of one sequence. Its keys lie one after the other, in the cache or among the
    gathered blocks.
    """

    token: int  # row of the query
    first_key: int
    num_keys: int
    gathered: bool


@dataclass(frozen=True, slots=True)
class DecodeRows:
    """What depends only on lengths and tables, and is therefore shared by all layers."""

    rows: tuple[DecodeRow, ...]
    blocks: torch.Tensor | None  # int32 [n] to gather; None: all sequences' blocks lie in order


def can_decode_rows(query: torch.Tensor, key_cache: torch.Tensor) -> bool:
    return query.device.type == "cpu" and query.dtype == key_cache.dtype


def plan_rows(
    places: list[tuple[int, int, torch.Tensor]],  # token, context length, block table
    block_size: int,
    window: int,
) -> DecodeRows:
    """`window`: number of keys that a token attends to; 0: all."""
    rows: list[DecodeRow] = []
    gathered: list[torch.Tensor] = []
    num_gathered = 0
    for token, context, table in places:
        first = max(context - window, 0) if window else 0
        first_block, end_block = first // block_size, -(-context // block_size)
        blocks = table[first_block:end_block]
        ids: list[int] = blocks.tolist()
        in_order = ids == list(range(ids[0], ids[0] + len(ids)))
        start = ids[0] if in_order else num_gathered
        first_key = start * block_size + first % block_size
        rows.append(DecodeRow(token, first_key, context - first, not in_order))
        if not in_order:
            gathered.append(blocks)
            num_gathered += len(ids)
    return DecodeRows(tuple(rows), torch.cat(gathered) if gathered else None)


def decode_rows(
    query: torch.Tensor,  # [n, num_heads, head_dim]
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    plan: DecodeRows,
    scale: float,
) -> list[torch.Tensor]:
    """[1, num_heads, head_dim] of each of the plan's rows. A KV head is a batch of its own, whose
    query heads are its queries: all of them see all keys. torch's kernel splits long contexts at
    fixed offsets, so no row depends on the others.
    """
    _, num_heads, head_dim = query.shape
    num_kv_heads = key_cache.shape[2]
    heads = num_heads // num_kv_heads  # query heads per KV head
    token_stride, head_stride, _ = query.stride()
    query_shape = (num_kv_heads, 1, heads, head_dim)
    query_strides = (heads * head_stride, num_heads * head_stride, head_stride, 1)
    width = num_kv_heads * head_dim
    strides = (head_dim, width, width, 1)
    gathered_keys, gathered_values = key_cache, value_cache
    if plan.blocks is not None:
        gathered_keys = key_cache.index_select(0, plan.blocks)
        gathered_values = value_cache.index_select(0, plan.blocks)
    outs: list[torch.Tensor] = []
    for row in plan.rows:
        keys = gathered_keys if row.gathered else key_cache
        values = gathered_values if row.gathered else value_cache
        shape = (num_kv_heads, 1, row.num_keys, head_dim)
        out, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default(
            query.as_strided(
                query_shape, query_strides, query.storage_offset() + row.token * token_stride
            ),
            keys.as_strided(shape, strides, keys.storage_offset() + row.first_key * width),
            values.as_strided(shape, strides, values.storage_offset() + row.first_key * width),
            scale=scale,
        )
        outs.append(out.view(1, num_heads, head_dim))
    return outs
