"""The memory that a GPU has left for the KV cache, and the errors for the operator if a part of the
start does not fit. Each names the flag to change and its new value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from formgate.engine.attention.kv_layout import KVLayout, LayerCache
from formgate.engine.attention.metadata import AttentionMetadata
from formgate.engine.config import EngineConfig
from formgate.engine.errors import EngineStartError
from formgate.engine.execution.graphs import BYTES_PER_GRAPH
from formgate.engine.execution.kv_cache_size import (
    CPU_CACHE_BYTES,
    GIB,
    KVCacheSize,
    num_blocks_for,
    size_kv_cache,
)
from formgate.engine.layers.parallel import TensorParallel
from formgate.engine.models.forward_batch import AdapterRows, ForwardBatch
from formgate.engine.step import adapter_tile_rows, num_adapter_tiles

ONE_RANK = TensorParallel()
BATCHED_TOKENS_CUDA = 8192
BATCHED_TOKENS_CPU = 1024  # a longer prefill chunk would delay decode rows for too long


def max_num_batched_tokens(config: EngineConfig, device: torch.device) -> int:
    """Token budget of a step. Raises EngineStartError if it is below `max_num_seqs`."""
    if config.max_num_batched_tokens is None:
        default = BATCHED_TOKENS_CUDA if device.type == "cuda" else BATCHED_TOKENS_CPU
        return max(default, config.max_num_seqs)
    if config.max_num_batched_tokens < config.max_num_seqs:
        raise EngineStartError(
            f"--max-num-batched-tokens {config.max_num_batched_tokens} is less than "
            f"--max-num-seqs {config.max_num_seqs}: lower --max-num-seqs to "
            f"{config.max_num_batched_tokens}"
        )
    return config.max_num_batched_tokens


@contextmanager
def weights_fit(device: torch.device) -> Iterator[None]:
    """Raise EngineStartError if the GPU runs out of memory while the weights are loaded."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        total = torch.cuda.get_device_properties(device).total_memory
        raise EngineStartError(
            f"Out of GPU memory while loading the weights (the GPU has {total / GIB:.1f} GiB): "
            "stop other programs on the GPU, raise --tensor-parallel-size, or serve a smaller model"
        ) from error


@contextmanager
def adapters_fit(config: EngineConfig) -> Iterator[None]:
    """Raise EngineStartError if the GPU runs out of memory while the adapters' slots are made."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EngineStartError(
            f"Out of GPU memory for {config.max_loras} adapters of rank {config.max_lora_rank}: "
            f"lower --max-loras to {max(config.max_loras // 2, 1)}, or --max-lora-rank"
        ) from error


@contextmanager
def graphs_fit(config: EngineConfig, max_batch: int) -> Iterator[None]:
    """Raise EngineStartError if the GPU runs out of memory while graphs are captured."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        share = max(config.gpu_memory_utilization - 0.05, 0.1)
        raise EngineStartError(
            f"Out of GPU memory while capturing CUDA graphs: lower --gpu-memory-utilization to "
            f"{share:.2f}, or --max-cudagraph-capture-size to {max_batch // 2}"
        ) from error


@contextmanager
def buffers_fit(config: EngineConfig) -> Iterator[None]:
    """Raise EngineStartError if the GPU runs out of memory while buffers are allocated."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EngineStartError(
            f"Out of GPU memory for the buffers of {config.max_num_seqs} sequences: lower "
            f"--max-num-seqs to {max(config.max_num_seqs // 2, 1)}"
        ) from error


def fit_kv_cache(
    config: EngineConfig,
    layout: KVLayout,
    device: torch.device,
    *,
    max_model_len: int,
    max_num_tokens: int,
    num_graphs: int,
    run_largest_step: Callable[[], None],
    parallel: TensorParallel = ONE_RANK,
) -> KVCacheSize:
    """Size the cache by the config's bytes, or else by the GPU's free memory (CPU: 1 GiB). All
    ranks get the size that the fullest one has room for.
    """
    one_sequence = num_blocks_for(max_model_len, layout.block_size) * layout.bytes_per_block
    more_memory = f"raise --kv-cache-memory-bytes to {one_sequence}"
    available, where = CPU_CACHE_BYTES, ""
    if device.type == "cuda":
        # Run the largest step even if the size is given, because it compiles kernels.
        available = _free_gpu_memory(config, device, max_num_tokens, run_largest_step)
        available -= num_graphs * BYTES_PER_GRAPH
        if not parallel.is_alone:
            available, where = fullest_rank(parallel.all_numbers(available, device))
    if config.kv_cache_memory_bytes is not None:
        available, where = config.kv_cache_memory_bytes, ""
    elif device.type == "cuda":
        more_memory = (
            "raise --gpu-memory-utilization to 0.95"
            if config.gpu_memory_utilization < 0.95
            else f"lower --max-num-batched-tokens to {max(max_num_tokens // 2, 1)}"
        )
    return size_kv_cache(
        layout,
        available,
        max_model_len=max_model_len,
        max_model_len_given=config.max_model_len is not None,
        max_num_seqs=config.max_num_seqs,
        more_memory=more_memory + where,
    )


def fullest_rank(available: list[int]) -> tuple[int, str]:
    """(Least bytes of all ranks, in words the GPU that has them if others have much more.)"""
    least, most = min(available), max(available)
    if most - least < GIB:
        return least, ""
    return least, (
        f", or free the GPU of rank {available.index(least)}: it has "
        f"{(most - least) / GIB:.1f} GiB less than another"
    )


def allocate_kv_cache(
    config: EngineConfig, layout: KVLayout, num_blocks: int, device: torch.device
) -> list[LayerCache]:
    """One cache per layer. Raises EngineStartError if the GPU runs out of memory."""
    try:
        return layout.allocate(num_blocks, device)
    except torch.OutOfMemoryError as error:
        if config.kv_cache_memory_bytes is not None:
            free, _ = torch.cuda.mem_get_info(device)
            lower = f"--kv-cache-memory-bytes to {free * 9 // 10}"
        else:
            share = max(config.gpu_memory_utilization - 0.1, 0.1)
            lower = f"--gpu-memory-utilization to {share:.2f}"
        raise EngineStartError(
            f"Out of GPU memory while allocating the KV cache: lower {lower}"
        ) from error


def largest_batch(
    *,
    num_seqs: int,
    max_num_tokens: int,
    max_model_len: int,
    block_size: int,
    device: torch.device,
    adapter_slots: int = 0,
) -> ForwardBatch:
    """A batch with the most tokens and rows that a step may have. All rows read block 0, and none
    writes it. With `adapter_slots`, all have the adapter of slot 0.
    """
    base, longer = divmod(max_num_tokens, num_seqs)
    counts = torch.full((num_seqs,), base)
    counts[:longer] += 1
    counts.clamp_(max=max_model_len)
    query_start = torch.zeros(num_seqs + 1, dtype=torch.int32)
    query_start[1:] = counts.cumsum(0)
    longest = int(counts.max())
    tokens = int(query_start[-1])
    return ForwardBatch(
        input_ids=torch.zeros(tokens, dtype=torch.int64, device=device),
        positions=torch.cat([torch.arange(int(n)) for n in counts]).to(device),
        logits_indices=(query_start[1:].long() - 1).to(device),
        attention=AttentionMetadata(
            slot_mapping=torch.full((tokens,), -1, device=device),
            block_tables=torch.zeros(
                (num_seqs, num_blocks_for(longest, block_size)), dtype=torch.int32, device=device
            ),
            query_start=query_start.to(device),
            context_lens=counts.to(device, torch.int32),
            max_query_len=longest,
            max_context_len=longest,
        ),
        adapters=_one_adapter(tokens, adapter_slots, device) if adapter_slots else None,
    )


def _one_adapter(num_tokens: int, slots: int, device: torch.device) -> AdapterRows:
    tile_rows = adapter_tile_rows(num_tokens)
    tiles = torch.tensor([[-1, 0, 0]] * num_adapter_tiles(num_tokens, slots), dtype=torch.int32)
    starts = torch.arange(0, num_tokens, tile_rows, dtype=torch.int32)
    tiles[: len(starts), 0] = 0
    tiles[: len(starts), 1] = starts
    tiles[: len(starts), 2] = (num_tokens - starts).clamp(max=tile_rows)
    order = torch.arange(num_tokens, dtype=torch.int32, device=device)
    return AdapterRows(order, tiles.to(device), tile_rows)


def _free_gpu_memory(
    config: EngineConfig,
    device: torch.device,
    max_num_tokens: int,
    run_largest_step: Callable[[], None],
) -> int:
    """Bytes left of `gpu_memory_utilization` at the peak of the largest step."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        run_largest_step()
    except torch.OutOfMemoryError as error:
        raise EngineStartError(
            f"Out of GPU memory in a step of {max_num_tokens} tokens: lower "
            f"--max-num-batched-tokens to {max(max_num_tokens // 2, 1)}"
        ) from error
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    # Memory of the CUDA context, of libraries' workspaces, and of other programs on the GPU.
    outside_torch = total - free - torch.cuda.memory_reserved(device)
    return int(total * config.gpu_memory_utilization) - peak - outside_torch
