"""Launches that compile every variant of the attention kernels that serving needs. The variants
follow from the kernels' tile sizes and context splits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch

from formgate.engine.attention.heads import PagedAttention
from formgate.engine.attention.kv_layout import HeadsLayout, LayerCache
from formgate.engine.attention.metadata import AttentionMetadata
from formgate.engine.step import SHORT_QUERY, BatchShape
from formgate.kernels.paged_attention import choose_splits

# Lengths of a short and a long prompt, which the kernels tile differently.
PROMPTS = (128, 2048)

Task = Callable[[], None]


def attention_tasks(
    model: torch.nn.Module,
    shapes: Iterable[BatchShape],
    layout: HeadsLayout,
    *,
    max_context_len: int,
    device: torch.device,
) -> Iterator[Task]:
    """One launch for each kernel variant of prompts and of decoding in `shapes`."""
    kinds: dict[tuple[float, int, float, bool], PagedAttention] = {}
    for layer in model.modules():
        if isinstance(layer, PagedAttention):
            kind = (layer.scale, layer.sliding_window, layer.softcap, layer.sinks is not None)
            kinds[kind] = layer
    batches = [(1, prompt) for prompt in PROMPTS if prompt <= max_context_len]
    # Mixed batches need no other variant: rows of one token are split as in decode batches, and
    # longer rows use the tiles of prompts.
    shapes = list(shapes)
    decode = {shape.num_rows for shape in shapes if shape.max_query_len == 1}
    short = {shape.num_rows for shape in shapes if shape.max_query_len == SHORT_QUERY}
    # Short queries may come in more rows than the largest shape for short queries has.
    most = max((shape.num_tokens for shape in shapes), default=0)
    short |= {rows for rows in decode if rows * SHORT_QUERY > most}
    for query_len, sizes in ((1, decode), (SHORT_QUERY, short)):
        by_splits = {
            choose_splits(rows * layout.num_kv_heads, max_context_len, device): rows
            for rows in sorted(sizes, reverse=True)
        }
        batches += [(rows, query_len) for rows in by_splits.values()]
    kv_cache = layout.allocate(1, device)[0]
    for layer in kinds.values():
        for num_rows, query_len in sorted(batches, reverse=True):
            metadata = empty_metadata(
                num_rows, query_len, max_context_len, layout.block_size, device
            )
            yield partial(_attend, layer, num_rows * query_len, kv_cache, metadata)


def _attend(
    layer: PagedAttention,
    num_tokens: int,
    kv_cache: LayerCache,
    metadata: AttentionMetadata,
) -> None:
    keys = kv_cache[0]
    shape = (num_tokens, layer.num_heads, keys.shape[-1])
    layer(torch.zeros(shape, dtype=keys.dtype, device=keys.device), kv_cache, metadata)


def empty_metadata(
    num_rows: int, query_len: int, max_context_len: int, block_size: int, device: torch.device
) -> AttentionMetadata:
    """Rows without earlier context, sized for contexts of up to `max_context_len` tokens."""
    num_tokens = num_rows * query_len
    integers = partial(torch.full, dtype=torch.int32, device=device)
    return AttentionMetadata(
        slot_mapping=torch.full((num_tokens,), -1, dtype=torch.int64, device=device),
        block_tables=integers((num_rows, -(-max_context_len // block_size)), 0),
        query_start=torch.arange(0, num_tokens + 1, query_len, dtype=torch.int32, device=device),
        context_lens=integers((num_rows,), query_len),
        max_query_len=query_len,
        max_context_len=max_context_len,
    )
