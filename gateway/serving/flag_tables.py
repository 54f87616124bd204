"""What `--help` says of the engine's flags, and the flags of other servers that are accepted."""

from __future__ import annotations

from collections.abc import Mapping

from formgate.gateway.server_config import ADAPTERS

ENGINE = "engine"
MEMORY = "memory and batching"

# Help group and text of the engine's fields.
ENGINE_FLAGS: Mapping[str, tuple[str, str]] = {
    "dtype": (ENGINE, "type of weights and activations"),
    "device": (ENGINE, "where to run"),
    "load_format": (ENGINE, "dummy: random weights, for benchmarks"),
    "quantization": (ENGINE, "how the weights must be quantized; fp8 also quantizes plain ones"),
    "tensor_parallel_size": (ENGINE, "GPUs to spread the model over, of all nodes together"),
    "enable_expert_parallel": (ENGINE, "GPUs share out whole experts, not a part of each"),
    "nnodes": (ENGINE, "hosts that run the model together"),
    "node_rank": (ENGINE, "number of this host: 0 serves, the others run their share of the GPUs"),
    "master_addr": (ENGINE, "address of host 0, as the other hosts reach it"),
    "master_port": (ENGINE, "port of host 0 for the other hosts"),
    "forced_tokens": (ENGINE, "append the tokens that a grammar forces instead of sampling them"),
    "structured_outputs_backend": (
        ENGINE,
        "outlines: its finite-state index, for regular constraints",
    ),
    "enforce_eager": (ENGINE, "no CUDA graphs"),
    "max_cudagraph_capture_size": (ENGINE, "largest decode batch with a CUDA graph"),
    "async_scheduling": (ENGINE, "launch a step before the last one's tokens are known"),
    "seed": (ENGINE, "seed of requests that set none"),
    "max_logprobs": (ENGINE, "most logprobs that a request may ask for"),
    "max_model_len": (
        MEMORY,
        "context length: prompt and answer together, in tokens (8192, 8k, 8K)",
    ),
    "max_num_seqs": (MEMORY, "sequences that run at once"),
    "max_num_batched_tokens": (MEMORY, "most tokens in one step"),
    "max_prompt_tokens": (
        MEMORY,
        "most prompt tokens in a step in which other answers wait for theirs (0: no limit)",
    ),
    "gpu_memory_utilization": (MEMORY, "fraction of the GPU's memory to use, 0 to 1"),
    "kv_cache_memory_bytes": (MEMORY, "size of the KV cache, instead of the remaining memory"),
    "kv_cache_dtype": (MEMORY, "data type of cached keys and values"),
    "block_size": (MEMORY, "tokens in a block of the KV cache"),
    "enable_prefix_caching": (MEMORY, "share the KV cache between prompts with a common prefix"),
    "max_queue_seconds": (
        MEMORY,
        "time limit for a request in the queue; then it gets 503 (0: no limit)",
    ),
    "scheduling_policy": (MEMORY, "order of waiting requests"),
    "enable_lora": (ADAPTERS, "serve adapters of the model"),
    "max_loras": (ADAPTERS, "adapters in the device's memory, which one step may mix"),
    "max_lora_rank": (ADAPTERS, "largest rank of an adapter"),
    "max_cpu_loras": (ADAPTERS, "adapters kept in the CPU's memory (32, or --max-loras)"),
}
SHORT_FLAGS: Mapping[str, str] = {
    "tensor_parallel_size": "-tp",
    "nnodes": "-n",
    "node_rank": "-r",
    "quantization": "-q",
}

# Accepted flags of other releases and servers that have no effect here; each prints a note.
NO_EFFECT: Mapping[str, tuple[bool, str]] = {  # flag: (takes a value, why)
    "--enable-chunked-prefill": (False, "prompts are always computed in chunks"),
    "--guided-decoding-backend": (True, "see --structured-outputs-backend"),
    "--enable-reasoning": (False, "reasoning is detected automatically"),
    "--trust-remote-code": (False, "formgate never runs code from a model repository"),
    "--distributed-executor-backend": (True, "each GPU has a process of formgate's own"),
    "--headless": (False, "a host with --node-rank above 0 has no HTTP server anyway"),
    "--swap-space": (True, "preempted requests are recomputed, not swapped"),
    "--disable-log-stats": (False, "statistics are in /metrics only"),
}
NOT_SUPPORTED: Mapping[str, str] = {
    "--no-enable-chunked-prefill": "prompts are always computed in chunks",
    "--pipeline-parallel-size": "pipeline parallelism is not supported",
    "--speculative-config": "speculative decoding is not supported yet",
}
