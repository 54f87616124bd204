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

from formgate.engine.batch_builder import BatchBuilder, BatchShape
from formgate.engine.config import EngineConfig
from formgate.engine.devices import CpuThreads, resolve_device
from formgate.engine.errors import EngineStartError
from formgate.engine.generation_config import eos_token_ids
from formgate.engine.graphs import StaticShapes, static_shapes
from formgate.engine.kv_cache import KVCaches, KVCacheShape
from formgate.engine.layers.packed import linear_method_for
from formgate.engine.masks import StepMasks
from formgate.engine.memory import (
    allocate_kv_cache,
    buffers_fit,
    fit_kv_cache,
    graphs_fit,
    largest_batch,
    max_num_batched_tokens,
    weights_fit,
)
from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.registry import build_model, model_spec
from formgate.engine.prompt_logprobs import prompt_logprobs
from formgate.engine.sampler import DeviceSample, SampledTokens, Sampler
from formgate.engine.sequence import Sequence
from formgate.engine.warm_up import attention_tasks, compile_kernels, sampler_tasks
from formgate.engine.weights import (
    Progress,
    dummy_weights,
    load_model_config,
    load_weights,
    resolve_dtype,
)
from formgate.kernels.fill_pending import fill_pending


@dataclass(frozen=True, slots=True)
class PromptRows:
    """Hidden states `first_row ..` of a step that predict `targets`, tokens of a prompt."""

    sequence: Sequence
    first_row: int
    first_target: int  # where in the prompt the targets begin
    targets: list[int]


@dataclass(frozen=True, slots=True)
class Forward:
    """A forward pass that is launched and, on CUDA, perhaps still under way."""

    rows: list[Sequence] = field(
        default_factory=list
    )  # those that catch up, one row of logits each
    logits: torch.Tensor | None = None  # float32 [len(rows), vocab_size]
    hidden: torch.Tensor | None = None  # [num_tokens, hidden_size], if `prompt_rows` need it
    prompt_rows: list[PromptRows] = field(default_factory=list)
    done: torch.cuda.Event | None = None  # None: nobody will ask when it was done


NO_TOKENS = SampledTokens([], frozenset(), [])


@dataclass(frozen=True, slots=True)
class Sampling:
    """Tokens that are being chosen; `fetch` waits for them."""

    sample: DeviceSample | None = None
    mask_wait: float = 0.0  # seconds, if there are no events to tell
    computed: torch.cuda.Event | None = None
    masked: torch.cuda.Event | None = None

    def fetch(self) -> SampledTokens:
        if self.sample is None:
            return NO_TOKENS
        tokens = self.sample.fetch()
        wait = self.mask_wait
        if self.computed is not None and self.masked is not None:
            # Between the two events the device had nothing to do: milliseconds.
            wait = self.computed.elapsed_time(self.masked) / 1000
        return replace(tokens, mask_wait=wait)


class ModelRunner:
    def __init__(self, config: EngineConfig, *, progress: Progress) -> None:
        """Raises EngineStartError, WeightsError or UnsupportedModelError, each in one line."""
        if config.tensor_parallel_size != 1:
            raise EngineStartError("--tensor-parallel-size: more than 1 is not supported yet")
        if config.quantization is not None:
            raise EngineStartError(f"--quantization {config.quantization} is not supported yet")
        self.device = resolve_device(config.device)
        self.on_cuda = self.device.type == "cuda"
        self._cpu_threads = None if self.on_cuda else CpuThreads()
        hf_config = load_model_config(config.model_dir)
        self.spec = model_spec(hf_config)
        self.dtype = resolve_dtype(config.dtype, hf_config, self.device)
        self.eos_token_ids = eos_token_ids(config.model_dir, self.spec.eos_token_ids)
        self.block_size = config.block_size
        self.max_num_seqs = config.max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens(config, self.device)
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
        max_batch = _max_static_batch(config, self.device)
        shapes = static_shapes(max_batch)
        with buffers_fit(config):
            self._make_buffers(max_batch)
        self._kv_shape = KVCacheShape(
            num_layers=self.spec.num_layers,
            block_size=config.block_size,
            num_kv_heads=self.spec.num_kv_heads,
            head_dim=self.spec.head_dim,
            dtype=self.dtype,
        )
        if self.on_cuda:
            self._compile_kernels(max_model_len, progress)
        size = fit_kv_cache(
            config,
            self._kv_shape,
            self.device,
            max_model_len=max_model_len,
            max_num_tokens=self.max_num_batched_tokens,
            num_graphs=len(shapes),
            run_largest_step=lambda: self._run_largest_step(max_model_len),
        )
        self.max_model_len = size.max_model_len
        self.num_blocks = size.num_blocks
        progress("allocating the KV cache", 0, 1)
        self.kv_caches: KVCaches = allocate_kv_cache(
            config, self._kv_shape, size.num_blocks, self.device
        )
        progress("allocating the KV cache", 1, 1)
        with buffers_fit(config):
            self._builder = BatchBuilder(
                max_num_seqs=self.max_num_seqs,
                max_num_tokens=self.max_num_batched_tokens,
                max_blocks_per_seq=self._kv_shape.blocks_for(self.max_model_len),
                block_size=self.block_size,
                device=self.device,
                shapes=shapes,
            )
        self._static = StaticShapes(shapes, self._compute_static)
        if self.on_cuda:
            with graphs_fit(config, max_batch), torch.inference_mode():
                self._static.capture(progress)
                self.clear_blocks([0])  # what was computed on the way to the graphs

    @property
    def bitmask(self) -> NDArray[np.int32]:
        """Where the masks of a step's rows are written before `sample`: [max_num_seqs, words]"""
        array: NDArray[np.int32] = self._bitmask.numpy()
        return array

    def leave_a_core(self, leave: bool) -> None:
        """Where the model runs on the CPU: to whoever prepares what requests wait for."""
        if self._cpu_threads is not None:
            self._cpu_threads.begin_step(leave_one=leave)

    @torch.inference_mode()
    def forward(self, sequences: ReadSequence[Sequence]) -> Forward:
        """Launch the pass that computes each sequence's next `num_scheduled_tokens`. On CUDA it
        returns at once. Pending tokens are those of the last `sample`.
        """
        if not sequences:
            return Forward()
        prompt_rows = _prompt_rows(sequences)
        step = self._builder.build(sequences, read_all=bool(prompt_rows))
        logits: torch.Tensor | None = None
        hidden: torch.Tensor | None = None
        if step.shape is not None and not prompt_rows:
            self._static.run(step.shape)
            logits = self._static_logits[: len(step.rows)] if step.rows else None
        else:
            if step.has_pending:
                fill_pending(step.forward.input_ids, self._last_tokens)
            hidden = self.model(step.forward, self.kv_caches)
            if step.rows:
                read = hidden
                if step.forward.read is None:
                    indices = step.forward.logits_indices[: len(step.rows)]
                    read = hidden.index_select(0, indices)
                out = self._static_logits[: len(step.rows)] if len(self._static) else None
                logits = self.model.compute_logits(read, out)
        timed = self.on_cuda and any(row.constraint is not None for row in step.rows)
        done = _record_event() if timed else None
        return Forward(step.rows, logits, hidden if prompt_rows else None, prompt_rows, done)

    @torch.inference_mode()
    def sample(self, forward: Forward, masks: StepMasks) -> Sampling:
        """Choose a token for each row of the pass. On CUDA it returns at once."""
        if forward.logits is None:
            return Sampling()
        num_rows = len(forward.rows)
        bitmask = None
        masked: torch.cuda.Event | None = None
        if masks.masked_rows:
            bitmask = self._send_masks(num_rows)
            if forward.done is not None:
                masked = _record_event()
        sample = self.sampler.launch(forward.logits, forward.rows, bitmask, masks.masked_rows)
        # A broken row's token is never seen, but the next step may be launched with it.
        torch.clamp(sample.device_ids, min=0, out=self._last_tokens[:num_rows])
        if not self.on_cuda:
            return Sampling(sample, masks.seconds)
        return Sampling(sample, 0.0, forward.done, masked)

    @torch.inference_mode()
    def collect_prompt_logprobs(self, forward: Forward) -> None:
        """Add what the pass says about prompts to the sequences that asked for it."""
        for rows in forward.prompt_rows:
            assert forward.hidden is not None
            num_top = rows.sequence.params.prompt_logprobs
            assert num_top is not None
            # A sequence that was preempted meanwhile comes back to the same places.
            rows.sequence.prompt_logprobs[rows.first_target - 1 :] = prompt_logprobs(
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

    def _compute_static(self, shape: BatchShape) -> None:
        batch = self._builder.static_batch(shape)
        fill_pending(batch.input_ids, self._last_tokens)
        hidden = self.model(batch, self.kv_caches)
        hidden = hidden.index_select(0, batch.logits_indices)
        self.model.compute_logits(hidden, self._static_logits[: shape.num_rows])

    def _send_masks(self, num_rows: int) -> torch.Tensor:
        """Copied beside the forward pass, not behind it."""
        if self._mask_stream is None:
            return self._bitmask[:num_rows]
        with torch.cuda.stream(self._mask_stream):
            # The sampling that read it last is over: its tokens have been fetched.
            self._device_bitmask[:num_rows].copy_(self._bitmask[:num_rows], non_blocking=True)
        torch.cuda.current_stream().wait_stream(self._mask_stream)
        return self._device_bitmask[:num_rows]

    def _make_buffers(self, max_batch: int) -> None:
        vocab_size, rows = self.spec.vocab_size, self.max_num_seqs
        words = -(-vocab_size // 32)
        self._bitmask = torch.zeros((rows, words), dtype=torch.int32, pin_memory=self.on_cuda)
        self._device_bitmask = self._bitmask.to(self.device)
        self._mask_stream: torch.cuda.Stream | None = None
        if self.on_cuda:
            self._mask_stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        # The device's own record of the last tokens: a next step need not wait for the CPU's.
        self._last_tokens = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self._static_logits = torch.zeros(
            (rows if max_batch else 0, vocab_size), dtype=torch.float32, device=self.device
        )

    def _load_model(
        self, config: EngineConfig, hf_config: PreTrainedConfig, progress: Progress
    ) -> CausalLM:
        with weights_fit(self.device):
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

    def _compile_kernels(self, max_model_len: int, progress: Progress) -> None:
        tasks = [
            *attention_tasks(
                self.model,
                static_shapes(self.max_num_seqs),
                self._kv_shape,
                num_heads=self.spec.num_heads,
                max_context_len=max_model_len,
                device=self.device,
            ),
            *sampler_tasks(self.sampler, self.spec.vocab_size, self.device),
        ]
        compile_kernels(tasks, progress)

    @torch.inference_mode()
    def _run_largest_step(self, max_model_len: int) -> None:
        kv_cache = self._kv_shape.allocate(1, self.device)
        batch = largest_batch(
            num_seqs=self.max_num_seqs,
            max_num_tokens=self.max_num_batched_tokens,
            max_model_len=max_model_len,
            block_size=self.block_size,
            device=self.device,
        )
        hidden = self.model(batch, kv_cache)
        logits = self.model.compute_logits(hidden[batch.logits_indices])
        # Penalties and logprobs copy the logits: at most twice at a time.
        copies = [torch.empty_like(logits) for _ in range(2)]
        del hidden, logits, copies


def _record_event() -> torch.cuda.Event:
    event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()  # on the current stream, behind everything launched so far
    return event


def _max_static_batch(config: EngineConfig, device: torch.device) -> int:
    """The largest decode batch that is padded to a static shape."""
    if config.enforce_eager:
        return 0
    default = config.max_num_seqs if device.type == "cuda" else 0
    given = config.max_cudagraph_capture_size
    return min(default if given is None else given, config.max_num_seqs)


def _prompt_rows(sequences: ReadSequence[Sequence]) -> list[PromptRows]:
    found: list[PromptRows] = []
    first_row = 0
    for sequence in sequences:
        if sequence.params.prompt_logprobs is not None and sequence.num_output_tokens == 0:
            start = sequence.num_computed_tokens + 1
            end = min(start + sequence.num_scheduled_tokens, sequence.num_prompt_tokens)
            if start < end:
                targets = sequence.token_ids[start:end]
                found.append(PromptRows(sequence, first_row, start, targets))
        first_row += sequence.num_scheduled_tokens
    return found
