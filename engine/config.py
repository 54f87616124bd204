"""The engine's configuration in one frozen dataclass. The command line is made from its fields."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from formgate.engine.adapter import AdapterSource


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Field names are the command line's (`max_model_len` is `--max-model-len`)."""

    model_dir: Path  # a local Hugging Face folder; hub names are resolved before the engine starts
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    device: Literal["auto", "cuda", "cpu"] = "auto"
    load_format: Literal["auto", "safetensors", "dummy"] = "auto"
    quantization: str | None = None
    max_model_len: int | None = None  # None: the model's own limit
    max_num_seqs: int = 256
    max_num_batched_tokens: int | None = None  # None: chosen by device
    max_prompt_tokens: int = 2048  # of a step in which other sequences decode; 0: no limit
    gpu_memory_utilization: float = 0.9
    kv_cache_memory_bytes: int | None = None  # None: what the device has left (CPU: 1 GiB)
    block_size: int = 16
    kv_cache_dtype: Literal["auto"] = "auto"
    enable_prefix_caching: bool = True
    scheduling_policy: Literal["fcfs", "priority"] = "fcfs"
    max_queue_seconds: float = 0.0  # longest wait for the first step; 0: no limit
    enforce_eager: bool = False
    max_cudagraph_capture_size: int | None = None  # None: max_num_seqs on CUDA, 0 on a CPU
    # Launch a step before the last one's tokens reach the CPU. None: on CUDA only.
    async_scheduling: bool | None = None
    max_logprobs: int = 20
    seed: int = 0
    tensor_parallel_size: int = 1  # ranks of all nodes together
    enable_expert_parallel: bool = False  # ranks share out whole experts, not parts of each
    nnodes: int = 1
    node_rank: int = 0  # node 0 serves; the ranks of all other nodes follow it
    master_addr: str = "127.0.0.1"  # address of node 0 that the other nodes reach
    master_port: int = 29500  # of node 0, where the other nodes' ranks come to
    tokenizer_vocab_size: int | None = None  # logits past it are padding; None: no padding
    enable_lora: bool = False
    adapters: tuple[AdapterSource, ...] = ()  # loaded at start
    skip_bad_adapters: bool = False  # of `adapters`: log them instead of ending the start
    max_loras: int = 4  # adapters on the device, which the rows of a step may have
    max_lora_rank: int = 16
    max_cpu_loras: int | None = None  # adapters in the CPU's memory; None: 32, or max_loras
    forced_tokens: bool = True  # append tokens that the grammar forces, without sampling them
    structured_outputs_backend: Literal["llguidance", "outlines"] = "llguidance"

    @property
    def adapter_slots(self) -> int:
        """Adapters that a step may mix; 0: the model takes none."""
        return self.max_loras if self.enable_lora else 0


def encode_path(value: Any) -> str:
    """For msgspec, which has no paths: the `enc_hook` of a message that holds a config."""
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(type(value))


def decode_path(kind: type, value: Any) -> Any:
    """Its `dec_hook`."""
    if kind is Path:
        return Path(value)
    raise NotImplementedError(kind)
