"""Compiles the kernels that take longest before anything else runs, many at a time: most of a
kernel's compilation is in LLVM and ptxas, which let go of Python's lock. A kernel that is left out
is compiled at its first launch, as all are without this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch

from formgate.engine.batch import ForwardBatch
from formgate.engine.devices import usable_cpus
from formgate.engine.graphs import SHORT_QUERY
from formgate.engine.kv_cache import KVCacheShape
from formgate.engine.layers.attention import KVCache, PagedAttention
from formgate.engine.sampler import Sampler
from formgate.engine.step import BatchShape
from formgate.engine.weights import Progress
from formgate.kernels.paged_attention import choose_splits

MAX_THREADS = 16
# Query tokens of prompts that get tiles of their own kind: a short one, a long one.
PROMPTS = (128, 2048)

Task = Callable[[], None]


def compile_kernels(tasks: Iterable[Task], progress: Progress) -> None:
    """Run each task in some thread, all of them to their end. Raises what a task raises."""
    tasks = list(tasks)
    stage = "compiling kernels"
    with ThreadPoolExecutor(min(usable_cpus(), MAX_THREADS), "compile-kernels") as pool:
        running = [pool.submit(torch.inference_mode()(task)) for task in tasks]
        for done, future in enumerate(running):
            progress(stage, done, len(running))
            future.result()
    progress(stage, len(tasks), len(tasks))


def attention_tasks(
    model: torch.nn.Module,
    shapes: Iterable[BatchShape],
    kv_shape: KVCacheShape,
    *,
    num_heads: int,
    max_context_len: int,
    device: torch.device,
) -> Iterator[Task]:
    """A launch of every kind that decoding in `shapes`, and prompts, will need."""
    kinds: dict[tuple[float, int, float], PagedAttention] = {}
    for layer in model.modules():
        if isinstance(layer, PagedAttention):
            kinds[layer.scale, layer.sliding_window, layer.softcap] = layer
    batches = [(1, prompt) for prompt in PROMPTS if prompt <= max_context_len]
    # Mixed batches bring nothing new: their rows of one token are split as those of decoding, the
    # others are in tiles of prompts.
    shapes = list(shapes)
    decode = {shape.num_rows for shape in shapes if shape.max_query_len == 1}
    short = {shape.num_rows for shape in shapes if shape.max_query_len == SHORT_QUERY}
    # Runs of forced tokens, or ends of prompts, may be in more rows than a shape of theirs has.
    most = max((shape.num_tokens for shape in shapes), default=0)
    short |= {rows for rows in decode if rows * SHORT_QUERY > most}
    for query_len, sizes in ((1, decode), (SHORT_QUERY, short)):
        by_splits = {
            choose_splits(rows * kv_shape.num_kv_heads, max_context_len, device): rows
            for rows in sorted(sizes, reverse=True)
        }
        batches += [(rows, query_len) for rows in by_splits.values()]
    kv_cache = kv_shape.allocate(1, device)[0]
    for layer in kinds.values():
        for num_rows, query_len in sorted(batches, reverse=True):
            batch = _batch_of(num_rows, query_len, max_context_len, kv_shape.block_size, device)
            yield partial(_attend, layer, num_heads, kv_cache, batch)


def sampler_tasks(sampler: Sampler, vocab_size: int, device: torch.device) -> Iterator[Task]:
    logits = torch.zeros((1, vocab_size), device=device)
    bitmask = torch.zeros((1, -(-vocab_size // 32)), dtype=torch.int32, device=device)
    # Of a mask that forbids everything nothing is sampled here: the tasks run side by side.
    yield partial(sampler.warm_up, logits.clone(), bitmask)
    yield partial(sampler.warm_up_limits, logits, top_p=True)
    yield partial(sampler.warm_up_limits, logits, top_p=False)


def _attend(layer: PagedAttention, num_heads: int, kv_cache: KVCache, batch: ForwardBatch) -> None:
    keys, _ = kv_cache
    shape = (len(batch.positions), num_heads, keys.shape[-1])
    layer(torch.zeros(shape, dtype=keys.dtype, device=keys.device), kv_cache, batch)


def _batch_of(
    num_rows: int, query_len: int, max_context_len: int, block_size: int, device: torch.device
) -> ForwardBatch:
    """Rows that begin with these query tokens, though their context might be so long."""
    num_tokens = num_rows * query_len
    positions = torch.arange(query_len, device=device).repeat(num_rows)
    width = -(-max_context_len // block_size)
    integers = partial(torch.full, dtype=torch.int32, device=device)
    return ForwardBatch(
        input_ids=torch.zeros_like(positions),
        positions=positions,
        slot_mapping=torch.full_like(positions, -1),
        block_tables=integers((num_rows, width), 0),
        query_start=torch.arange(0, num_tokens + 1, query_len, dtype=torch.int32, device=device),
        context_lens=integers((num_rows,), query_len),
        logits_indices=positions[:0],
        max_query_len=query_len,
        max_context_len=max_context_len,
    )
