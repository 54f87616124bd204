"""Launches that compile every variant of the latent attention kernels that serving needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch

from formgate.engine.attention.kv_layout import LatentLayout, LayerCache
from formgate.engine.attention.latent import LatentAttention
from formgate.engine.attention.metadata import AttentionMetadata
from formgate.engine.attention.warm_up import PROMPTS, Task, empty_metadata
from formgate.engine.step import SHORT_QUERY, BatchShape
from formgate.kernels.latent_attention import num_latent_splits

Projections = tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor, torch.Tensor]


def latent_attention_tasks(
    layer: LatentAttention,
    projections: Projections,
    shapes: Iterable[BatchShape],
    layout: LatentLayout,
    *,
    max_context_len: int,
    device: torch.device,
) -> Iterator[Task]:
    """One launch for each kernel variant of prompts and of decoding in `shapes`."""
    batches = {(1, prompt) for prompt in PROMPTS if prompt <= max_context_len}
    rows_of: dict[int, int] = {}
    for rows in sorted({shape.num_rows for shape in shapes}, reverse=True):
        rows_of[num_latent_splits(rows, layer.num_heads, max_context_len, device)] = rows
    # A short query of one token, of several, and a longer one that continues a context.
    batches |= {(rows, query) for rows in rows_of.values() for query in (1, 2, SHORT_QUERY)}
    kv_cache = layout.allocate(1, device)[0]
    for num_rows, query_len in sorted(batches, reverse=True):
        metadata = empty_metadata(num_rows, query_len, max_context_len, layout.block_size, device)
        yield partial(_attend, layer, projections, num_rows * query_len, kv_cache, metadata)


def _attend(
    layer: LatentAttention,
    projections: Projections,
    num_tokens: int,
    kv_cache: LayerCache,
    metadata: AttentionMetadata,
) -> None:
    cache = kv_cache[0]
    shape = layer.shape
    width = shape.head_dim + shape.rotary_dim
    query = cache.new_zeros(num_tokens, layer.num_heads, width)
    entries = cache.new_zeros(num_tokens, shape.latent_dim + shape.rotary_dim)
    layer(query, entries, *projections, kv_cache, metadata)
