"""Owns what lives on the device: the model, the KV cache, the sampler. Runs a schedule's sequences
through them; which sequences those are, and what becomes of their tokens, is not its business.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as ReadSequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedConfig

from formgate.engine.batch import ForwardBatch
from formgate.engine.batch_builder import BatchBuilder
from formgate.engine.config import EngineConfig
from formgate.engine.devices import limit_cpu_threads, resolve_device
from formgate.engine.errors import EngineStartError
from formgate.engine.generation_config import eos_token_ids
from formgate.engine.kv_cache import (
    CPU_CACHE_BYTES,
    GIB,
    KVCaches,
    KVCacheShape,
    KVCacheSize,
    size_kv_cache,
)
from formgate.engine.layers.packed import linear_method_for
from formgate.engine.masks import StepMasks
from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.registry import build_model, model_spec
from formgate.engine.prompt_logprobs import prompt_logprobs
from formgate.engine.sampler import SampledTokens, Sampler
from formgate.engine.sequence import Sequence
from formgate.engine.weights import (
    Progress,
    dummy_weights,
    load_model_config,
    load_weights,
    resolve_dtype,
)

BATCHED_TOKENS_CUDA = 8192
BATCHED_TOKENS_CPU = 1024  # a longer chunk would hold up the decoding rows for too long


@dataclass(frozen=True, slots=True)
class PromptRows:
    """Hidden states `first_row ..` of a step that predict `targets`, tokens of a prompt."""

    sequence: Sequence
    first_row: int
    targets: list[int]


@dataclass(frozen=True, slots=True)
class Forward:
    """A forward pass that is launched and, on CUDA, perhaps still under way."""

    rows: list[Sequence] = field(
        default_factory=list
    )  # those that catch up, one row of logits each
    logits: torch.Tensor | None = None  # float32 [len(rows), vocab_size]
    hidden: torch.Tensor | None = None  # [num_tokens, hidden_size]
    prompt_rows: list[PromptRows] = field(default_factory=list)
    done: torch.cuda.Event | None = None  # None: it was done when `forward` returned


NO_TOKENS = SampledTokens([], frozenset(), [])


class ModelRunner:
    def __init__(self, config: EngineConfig, *, progress: Progress) -> None:
        """Raises EngineStartError, WeightsError or UnsupportedModelError, each in one line."""
        if config.tensor_parallel_size != 1:
            raise EngineStartError("--tensor-parallel-size: more than 1 is not supported yet")
        if config.quantization is not None:
            raise EngineStartError(f"--quantization {config.quantization} is not supported yet")
        self.device = resolve_device(config.device)
        if self.device.type == "cpu":
            limit_cpu_threads()
        hf_config = load_model_config(config.model_dir)
        self.spec = model_spec(hf_config)
        self.dtype = resolve_dtype(config.dtype, hf_config, self.device)
        self.eos_token_ids = eos_token_ids(config.model_dir, self.spec.eos_token_ids)
        self.block_size = config.block_size
        self.max_num_seqs = config.max_num_seqs
        self.max_num_batched_tokens = _max_num_batched_tokens(config, self.device)
        max_model_len = self._max_model_len(config)

        self.model = self._load_model(config, hf_config, progress)
        self.vocab_size = min(
            self.spec.vocab_size, config.tokenizer_vocab_size or self.spec.vocab_size
        )
        self.sampler = Sampler(
            vocab_size=self.vocab_size,
            eos_token_ids=sorted(self.eos_token_ids),
            device=self.device,
            seed=config.seed,
        )
        size = self._fit_kv_cache(config, max_model_len)
        self.max_model_len = size.max_model_len
        self.num_blocks = size.num_blocks
        progress("allocating the KV cache", 0, 1)
        self.kv_caches = self._allocate(config, size.num_blocks)
        progress("allocating the KV cache", 1, 1)
        self._builder = BatchBuilder(
            max_num_seqs=self.max_num_seqs,
            max_num_tokens=self.max_num_batched_tokens,
            max_blocks_per_seq=self._kv_shape.blocks_for(self.max_model_len),
            block_size=self.block_size,
            device=self.device,
        )
        words = -(-self.spec.vocab_size // 32)
        self._bitmask = torch.zeros(
            (self.max_num_seqs, words), dtype=torch.int32, pin_memory=self.device.type == "cuda"
        )

    @property
    def bitmask(self) -> NDArray[np.int32]:
        """Where the masks of a step's rows are written before `sample`: [max_num_seqs, words]"""
        array: NDArray[np.int32] = self._bitmask.numpy()
        return array

    @torch.inference_mode()
    def forward(self, sequences: ReadSequence[Sequence]) -> Forward:
        """Launch the pass that computes each sequence's next `num_scheduled_tokens`. On CUDA it
        returns at once.
        """
        if not sequences:
            return Forward()
        batch = self._builder.build(sequences)
        hidden = self.model(batch, self.kv_caches)
        rows = [sequence for sequence in sequences if sequence.catches_up]
        logits = self.model.compute_logits(hidden[batch.logits_indices]) if rows else None
        done = _record_event() if self.device.type == "cuda" else None
        return Forward(rows, logits, hidden, _prompt_rows(sequences), done)

    @torch.inference_mode()
    def sample(self, forward: Forward, masks: StepMasks) -> SampledTokens:
        """Wait for the pass and choose a token for each of its rows."""
        if forward.logits is None:
            return NO_TOKENS
        bitmask = None
        masked: torch.cuda.Event | None = None
        if masks.masked_rows:
            if forward.done is not None:
                masked = _record_event()
            bitmask = self._bitmask[: len(forward.rows)].to(self.device, non_blocking=True)
        sampled = self.sampler.sample(forward.logits, forward.rows, bitmask, masks.masked_rows)
        mask_wait = masks.seconds
        if forward.done is not None:
            # Between the two events the device had nothing to do: milliseconds.
            mask_wait = forward.done.elapsed_time(masked) / 1000 if masked is not None else 0.0
        return replace(sampled, mask_wait=mask_wait)

    @torch.inference_mode()
    def collect_prompt_logprobs(self, forward: Forward) -> None:
        """Add what the pass says about prompts to the sequences that asked for it."""
        for rows in forward.prompt_rows:
            assert forward.hidden is not None
            num_top = rows.sequence.params.prompt_logprobs
            assert num_top is not None
            rows.sequence.prompt_logprobs += prompt_logprobs(
                self.model.compute_logits,
                forward.hidden[rows.first_row : rows.first_row + len(rows.targets)],
                rows.targets,
                num_top,
            )

    @torch.inference_mode()
    def clear_blocks(self, blocks: Iterable[int]) -> None:
        """Take NaN out of blocks before others use them: masked out is multiplied by 0, and 0
        times NaN is NaN.
        """
        indices = torch.tensor(list(blocks), dtype=torch.int64, device=self.device)
        for keys, values in self.kv_caches:
            keys.index_fill_(0, indices, 0.0)
            values.index_fill_(0, indices, 0.0)

    def _load_model(
        self, config: EngineConfig, hf_config: PreTrainedConfig, progress: Progress
    ) -> CausalLM:
        try:
            model = build_model(
                hf_config,
                self.dtype,
                self.device,
                linear_method=linear_method_for(self.dtype, self.device),
            )
            if config.load_format == "dummy":
                dummy_weights(model, config.seed)
            else:
                load_weights(model, config.model_dir, progress=progress)
        except torch.OutOfMemoryError as error:
            total = torch.cuda.get_device_properties(self.device).total_memory
            raise EngineStartError(
                f"Out of GPU memory while loading the weights (the GPU has {total / GIB:.1f} GiB): "
                "free it from other programs, or serve a smaller model"
            ) from error
        model.requires_grad_(False)
        return model

    def _max_model_len(self, config: EngineConfig) -> int:
        limit = self.spec.max_position
        if config.max_model_len is None:
            return limit
        if config.max_model_len > limit:
            raise EngineStartError(
                f"--max-model-len {config.max_model_len} is more than the model's {limit} "
                f"positions: lower it to {limit}"
            )
        return config.max_model_len

    # Memory.

    def _fit_kv_cache(self, config: EngineConfig, max_model_len: int) -> KVCacheSize:
        self._kv_shape = KVCacheShape(
            num_layers=self.spec.num_layers,
            block_size=config.block_size,
            num_kv_heads=self.spec.num_kv_heads,
            head_dim=self.spec.head_dim,
            dtype=self.dtype,
        )
        one_sequence = self._kv_shape.blocks_for(max_model_len) * self._kv_shape.bytes_per_block
        more_memory = f"raise --kv-cache-memory-bytes to {one_sequence}"
        if config.kv_cache_memory_bytes is not None:
            available = config.kv_cache_memory_bytes
        elif self.device.type == "cpu":
            available = CPU_CACHE_BYTES
        else:
            available = self._profile_gpu_memory(config, max_model_len)
            more_memory = (
                "raise --gpu-memory-utilization to 0.95"
                if config.gpu_memory_utilization < 0.95
                else f"lower --max-num-batched-tokens to {max(self.max_num_batched_tokens // 2, 1)}"
            )
        return size_kv_cache(
            self._kv_shape,
            available,
            max_model_len=max_model_len,
            max_model_len_given=config.max_model_len is not None,
            max_num_seqs=config.max_num_seqs,
            more_memory=more_memory,
        )

    def _profile_gpu_memory(self, config: EngineConfig, max_model_len: int) -> int:
        """Bytes of the GPU's share that the largest step leaves free."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        try:
            self._run_largest_step(max_model_len)
        except torch.OutOfMemoryError as error:
            half = max(self.max_num_batched_tokens // 2, 1)
            raise EngineStartError(
                f"Out of GPU memory in a step of {self.max_num_batched_tokens} tokens: lower "
                f"--max-num-batched-tokens to {half}"
            ) from error
        torch.cuda.synchronize(self.device)
        peak = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self.device)
        # The CUDA context, libraries' workspaces, and other programs on the same GPU.
        outside_torch = total - free - torch.cuda.memory_reserved(self.device)
        return int(total * config.gpu_memory_utilization) - peak - outside_torch

    @torch.inference_mode()
    def _run_largest_step(self, max_model_len: int) -> None:
        """As many tokens and rows as a step may have. All read and none writes block 0 of a cache
        of one block.
        """
        num_seqs = self.max_num_seqs
        base, longer = divmod(self.max_num_batched_tokens, num_seqs)
        counts = torch.full((num_seqs,), base)
        counts[:longer] += 1
        counts.clamp_(max=max_model_len)
        query_start = torch.zeros(num_seqs + 1, dtype=torch.int32)
        query_start[1:] = counts.cumsum(0)
        longest = int(counts.max())
        tokens = int(query_start[-1])
        batch = ForwardBatch(
            input_ids=torch.zeros(tokens, dtype=torch.int64, device=self.device),
            positions=torch.cat([torch.arange(int(n)) for n in counts]).to(self.device),
            slot_mapping=torch.full((tokens,), -1, device=self.device),
            block_tables=torch.zeros(
                (num_seqs, self._kv_shape.blocks_for(longest)),
                dtype=torch.int32,
                device=self.device,
            ),
            query_start=query_start.to(self.device),
            context_lens=counts.to(self.device, torch.int32),
            logits_indices=(query_start[1:].long() - 1).to(self.device),
            max_query_len=longest,
            max_context_len=longest,
        )
        hidden = self.model(batch, self._kv_shape.allocate(1, self.device))
        logits = self.model.compute_logits(hidden[batch.logits_indices])
        # The sampler sorts: at most two more tensors as large as the logits, and indices.
        logits.sort(dim=-1)

    def _allocate(self, config: EngineConfig, num_blocks: int) -> KVCaches:
        try:
            return self._kv_shape.allocate(num_blocks, self.device)
        except torch.OutOfMemoryError as error:
            if config.kv_cache_memory_bytes is not None:
                free, _ = torch.cuda.mem_get_info(self.device)
                lower = f"--kv-cache-memory-bytes to {free * 9 // 10}"
            else:
                share = max(config.gpu_memory_utilization - 0.1, 0.1)
                lower = f"--gpu-memory-utilization to {share:.2f}"
            raise EngineStartError(
                f"Out of GPU memory while allocating the KV cache: lower {lower}"
            ) from error


def _record_event() -> torch.cuda.Event:
    event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()  # on the current stream, behind everything launched so far
    return event


def _max_num_batched_tokens(config: EngineConfig, device: torch.device) -> int:
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


def _prompt_rows(sequences: ReadSequence[Sequence]) -> list[PromptRows]:
    found: list[PromptRows] = []
    first_row = 0
    for sequence in sequences:
        if sequence.params.prompt_logprobs is not None and sequence.num_output_tokens == 0:
            start = sequence.num_computed_tokens + 1
            targets = sequence.token_ids[start : start + sequence.num_scheduled_tokens]
            if targets:
                found.append(PromptRows(sequence, first_row, targets))
        first_row += sequence.num_scheduled_tokens
    return found
