"""The memory that a model needs, from its config alone: the engine's own model is built on torch's
`meta` device, where tensors have shapes and no storage.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from formgate.engine.config import EngineConfig
from formgate.engine.errors import EngineStartError
from formgate.engine.execution.kv_cache_size import CPU_CACHE_BYTES
from formgate.engine.layers.packed import linear_method_for
from formgate.engine.layers.parallel import TensorParallel
from formgate.engine.layers.quantized.config import read_quantization
from formgate.engine.loading.weights import WeightsError, load_model_config, resolve_dtype
from formgate.engine.models.registry import build_model, model_spec
from formgate.engine.models.spec import UnsupportedModelError
from formgate.gateway.commands.findings import Finding, gib

META = torch.device("meta")


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Of one rank, in bytes. `max_model_len` is in tokens."""

    weights: int
    kv_per_token: int
    max_model_len: int
    len_is_given: bool
    num_parameters: int  # elements of this rank's tensors; packed weights count as stored

    @property
    def one_sequence(self) -> int:
        return self.kv_per_token * self.max_model_len


def memory_need(folder: Path, config: EngineConfig, device: torch.device) -> MemoryNeed:
    """What rank 0 of `config.tensor_parallel_size` allocates on `device`. Raises EngineStartError,
    UnsupportedModelError or WeightsError, as the engine would at its start.
    """
    hf_config = load_model_config(folder)
    spec = model_spec(hf_config)
    dtype = resolve_dtype(config.dtype, hf_config, device)
    dense = linear_method_for(dtype, device)
    quantization = read_quantization(
        getattr(hf_config, "quantization_config", None),
        config.quantization,
        dense=dense,
        dtype=dtype,
        device=device,
    )
    model = build_model(
        hf_config,
        dtype,
        META,
        parallel=TensorParallel(0, config.tensor_parallel_size),
        linear_method=dense,
        quantization=quantization,
        expert_parallel=config.enable_expert_parallel,
    )
    tensors = {id(x): x for x in (*model.parameters(), *model.buffers())}.values()
    layout = model.kv_layout(config.block_size)
    return MemoryNeed(
        weights=sum(x.numel() * x.element_size() for x in tensors),
        kv_per_token=layout.bytes_per_block // layout.block_size,
        max_model_len=config.max_model_len or spec.max_position,
        len_is_given=config.max_model_len is not None,
        num_parameters=sum(x.numel() for x in tensors),
    )


def need_or_finding(
    folder: Path, config: EngineConfig, device: torch.device
) -> MemoryNeed | Finding:
    """The need, or why the engine would not start with this model."""
    try:
        return memory_need(folder, config, device)
    except (EngineStartError, UnsupportedModelError, WeightsError) as error:
        return Finding(
            "model", "wrong", str(error).rstrip("."), "serve another, or change the flag"
        )


def gpu_memory_finding(need: MemoryNeed, config: EngineConfig, *, free: int, total: int) -> Finding:
    """Whether the weights and one sequence fit on the fullest GPU. `free`, `total`: bytes of it."""
    budget = min(round(total * config.gpu_memory_utilization), free)
    said = f"weights {gib(need.weights)} of {gib(budget)} that the GPU may give"
    if need.weights >= budget:
        times = -(-need.weights * config.tensor_parallel_size // max(budget, 1))
        remedy = (
            f"spread it over more GPUs (-tp {max(times, 2 * config.tensor_parallel_size)}), "
            "or serve a quantized checkpoint"
        )
        if free < total * config.gpu_memory_utilization:
            remedy = f"stop other programs on the GPU ({gib(total - free)} are taken), {remedy}"
        return Finding("memory", "wrong", said, remedy)
    left = budget - need.weights
    if config.kv_cache_memory_bytes is not None:
        left = min(left, config.kv_cache_memory_bytes)
    return _cache_finding(need, said, left)


def cpu_memory_finding(need: MemoryNeed, config: EngineConfig, available: int | None) -> Finding:
    """Whether the weights and the cache fit in main memory. `available`: bytes; None: unknown."""
    cache = config.kv_cache_memory_bytes or CPU_CACHE_BYTES
    cache = min(cache, need.one_sequence * config.max_num_seqs)
    wanted = (need.weights + cache) * config.tensor_parallel_size
    said = f"weights {gib(need.weights)}, KV cache {gib(cache)}"
    if available is not None:
        said += f"; {gib(available)} of main memory are free"
        if wanted > available:
            return Finding(
                "memory",
                "wrong",
                said,
                "free memory, serve a smaller model, or lower --kv-cache-memory-bytes",
            )
    return _cache_finding(need, said, cache)


def _cache_finding(need: MemoryNeed, said: str, left: int) -> Finding:
    """`left`: bytes that the cache may have, less what a step computes in."""
    tokens = left // need.kv_per_token
    if tokens >= need.max_model_len:
        said += f"; a context of {need.max_model_len} tokens takes {gib(need.one_sequence)}"
        return Finding("memory", "ok", said)
    said += f"; the cache has room for {tokens} tokens of {need.max_model_len}"
    if need.len_is_given:
        return Finding("memory", "wrong", said, f"lower --max-model-len to {tokens} or less")
    return Finding("memory", "note", said, "the server lowers the context length to what fits")
