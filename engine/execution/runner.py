"""The model runner owns the model, the KV cache and the buffers of a step, and runs steps. It knows
no sequence and does not sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from formgate.engine.attention.kv_layout import LayerCache
from formgate.engine.config import EngineConfig
from formgate.engine.devices import CpuThreads, record_event, resolve_device
from formgate.engine.errors import EngineStartError
from formgate.engine.execution.batch_builder import BatchBuilder
from formgate.engine.execution.graphs import StaticShapes, static_shapes
from formgate.engine.execution.kv_cache_size import num_blocks_for
from formgate.engine.execution.memory import (
    adapters_fit,
    allocate_kv_cache,
    buffers_fit,
    fit_kv_cache,
    graphs_fit,
    largest_batch,
    max_num_batched_tokens,
    weights_fit,
)
from formgate.engine.execution.warm_up import compile_kernels, sampler_tasks
from formgate.engine.layers.packed import linear_method_for
from formgate.engine.layers.parallel import TensorParallel
from formgate.engine.layers.quantized.config import read_quantization
from formgate.engine.layers.quantized.warm_up import linear_tasks
from formgate.engine.loading.generation_config import eos_token_ids
from formgate.engine.loading.weights import (
    Progress,
    dummy_weights,
    load_model_config,
    load_weights,
    resolve_dtype,
)
from formgate.engine.lora.bank import AdapterBank
from formgate.engine.messages import PositionLogprobs
from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.forward_batch import ForwardBatch
from formgate.engine.models.model_config import ModelConfig
from formgate.engine.models.registry import build_model, model_spec
from formgate.engine.ranks.group import RankGroup
from formgate.engine.sampling.prompt_logprobs import prompt_logprobs
from formgate.engine.sampling.stage import SamplingStage
from formgate.engine.step import BatchShape, PromptTargets, Step
from formgate.kernels.fill_pending import fill_pending


@dataclass(frozen=True, slots=True)
class Forward:
    """A launched forward pass, which may still run on CUDA."""

    logits: torch.Tensor | None = None  # float32 [step.num_logits, vocab_size]
    hidden: torch.Tensor | None = None  # [num_tokens, hidden_size], kept for `prompt_targets`
    prompt_targets: tuple[PromptTargets, ...] = ()
    done: torch.cuda.Event | None = None  # recorded after the pass if it is `timed` and on CUDA


NOTHING_COMPUTED = Forward()


class ModelRunner:
    def __init__(
        self, config: EngineConfig, *, progress: Progress, group: RankGroup | None = None
    ) -> None:
        """Load the model and allocate the KV cache. `group`: this rank among several, which all
        make their runners at the same time; None: the only rank. Raises EngineStartError,
        WeightsError or UnsupportedModelError, each with a message of one line.
        """
        self.device = resolve_device(config.device)
        self.on_cuda = self.device.type == "cuda"
        self.parallel = TensorParallel() if group is None else group.parallel
        sharers = 1 if group is None else group.local_size
        self._cpu_threads = None if self.on_cuda else CpuThreads(sharers=sharers)
        hf_config = load_model_config(config.model_dir)
        self.spec = model_spec(hf_config)
        self.dtype = resolve_dtype(config.dtype, hf_config, self.device)
        self.eos_token_ids = eos_token_ids(config.model_dir, self.spec.eos_token_ids)
        self.block_size = config.block_size
        self.max_num_seqs = config.max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens(config, self.device)
        max_model_len = self._max_model_len(config)

        self.model = self._load_model(config, hf_config, progress)
        if group is not None:
            group.wait_loaded(progress)  # the next steps of the start compute together
        self.vocab_size = min(
            self.spec.vocab_size, config.tokenizer_vocab_size or self.spec.vocab_size
        )
        max_batch = _max_static_batch(config, self.device)
        self.adapters = self._make_adapter_bank(config)
        shapes = static_shapes(max_batch, adapters=config.enable_lora)
        with buffers_fit(config):
            self._make_buffers(max_batch)
            self.sampling = SamplingStage(
                self.last_tokens,
                max_num_seqs=self.max_num_seqs,
                vocab_size=self.vocab_size,
                padded_vocab_size=self.spec.vocab_size,
                eos_token_ids=sorted(self.eos_token_ids),
                seed=config.seed,
            )
        self._kv_layout = self.model.kv_layout(config.block_size)
        if self.on_cuda:
            self._compile_kernels(max_model_len, progress)
        size = fit_kv_cache(
            config,
            self._kv_layout,
            self.device,
            max_model_len=max_model_len,
            max_num_tokens=self.max_num_batched_tokens,
            num_graphs=len(shapes),
            run_largest_step=lambda: self._run_largest_step(max_model_len),
            parallel=self.parallel,
        )
        self.max_model_len = size.max_model_len
        self.num_blocks = size.num_blocks
        progress("allocating the KV cache", 0, 1)
        self.kv_caches: list[LayerCache] = allocate_kv_cache(
            config, self._kv_layout, size.num_blocks, self.device
        )
        progress("allocating the KV cache", 1, 1)
        with buffers_fit(config):
            self._builder = BatchBuilder(
                max_num_seqs=self.max_num_seqs,
                max_num_tokens=self.max_num_batched_tokens,
                max_blocks_per_seq=num_blocks_for(self.max_model_len, self.block_size),
                block_size=self.block_size,
                device=self.device,
                shapes=shapes,
                adapter_slots=config.adapter_slots,
            )
        self._static = StaticShapes(shapes, self._compute_static)
        if self.on_cuda:
            with graphs_fit(config, max_batch), torch.inference_mode():
                self._static.capture(progress)
        self._clear([0])  # the captures wrote to it

    def leave_a_core(self, leave: bool) -> None:
        """On a CPU, leave a core to the threads and processes that build constraints."""
        if self._cpu_threads is not None:
            self._cpu_threads.begin_step(leave_one=leave)

    @property
    def whole_prompts(self) -> bool:
        """See `KVLayout.whole_prompts`."""
        return self._kv_layout.whole_prompts

    @property
    def shapes(self) -> tuple[BatchShape, ...]:
        """The shapes that batches are padded to."""
        return self._static.shapes

    @property
    def max_numbers(self) -> int:
        """Length of the arrays of `next_numbers`."""
        return self._builder.max_numbers

    def lost_rank(self, wait: float = 0.0) -> str | None:
        """Why another rank is gone, so that no step can run; None if none is. Waits up to `wait`
        seconds for one to go.
        """
        return None

    def close(self, *, in_order: bool = True) -> None:
        """Stop all other ranks, or kill them if not `in_order`."""

    def next_numbers(self) -> NDArray[np.int64]:
        """The array to pack the next step into."""
        return self._builder.next_numbers()

    @torch.inference_mode()
    def forward(self, step: Step, *, timed: bool = False) -> Forward:
        """Launch a step's forward pass; on CUDA it returns at once. Pending tokens are read from
        `last_tokens`. `timed`: record an event when the pass is done.
        """
        batch = self._builder.build(step)
        logits: torch.Tensor | None = None
        hidden: torch.Tensor | None = None
        if step.shape is not None and not step.prompt_targets:
            self._static.run(step.shape)
            logits = self._static_logits[: step.num_logits] if step.num_logits else None
        else:
            if step.has_pending:
                self._fill_pending(batch.input_ids)
            hidden = self._run_model(batch, self.kv_caches)
            if step.num_logits:
                read = hidden
                if batch.read is None:
                    read = hidden.index_select(0, batch.logits_indices[: step.num_logits])
                out = self._static_logits[: step.num_logits] if len(self._static) else None
                logits = self.model.compute_logits(read, out)
        done = record_event() if timed and self.on_cuda else None
        return Forward(logits, hidden if step.prompt_targets else None, step.prompt_targets, done)

    @torch.inference_mode()
    def prompt_logprobs(self, forward: Forward) -> list[list[PositionLogprobs]]:
        """Prompt logprobs for each of the pass's `prompt_targets`, in order."""
        found = []
        for targets in forward.prompt_targets:
            assert forward.hidden is not None
            end = targets.first_row + len(targets.token_ids)
            hidden = forward.hidden[targets.first_row : end]
            found.append(
                prompt_logprobs(
                    self.model.compute_logits, hidden, targets.token_ids, targets.num_top
                )
            )
        return found

    def load_adapter(self, slot: int, ranks: Sequence[int], weights: torch.Tensor | None) -> None:
        """Put an adapter into a slot, see `AdapterBank.load`."""
        assert self.adapters is not None
        self.adapters.load(slot, ranks, weights)

    def clear_blocks(self, blocks: Iterable[int]) -> None:
        """Zero the blocks: a NaN in one would survive a masked value's multiplication by 0."""
        self._clear(blocks)

    @torch.inference_mode()
    def _clear(self, blocks: Iterable[int]) -> None:
        """Of this rank alone."""
        indices = torch.tensor(list(blocks), dtype=torch.int64, device=self.device)
        for tensors in self.kv_caches:
            for tensor in tensors:
                tensor.index_fill_(0, indices, 0.0)

    def _compute_static(self, shape: BatchShape) -> None:
        batch = self._builder.static_batch(shape)
        self._fill_pending(batch.input_ids)
        hidden = self._run_model(batch, self.kv_caches)
        hidden = hidden.index_select(0, batch.logits_indices)
        self.model.compute_logits(hidden, self._static_logits[: shape.num_rows])

    def _run_model(self, batch: ForwardBatch, kv_caches: list[LayerCache]) -> torch.Tensor:
        if self.adapters is not None:
            self.adapters.use(batch)
        hidden: torch.Tensor = self.model(batch, kv_caches)
        return hidden

    def _fill_pending(self, input_ids: torch.Tensor) -> None:
        """Put the last step's tokens, which rank 0 sampled, in place of pending ones."""
        self.parallel.broadcast(self.last_tokens)
        fill_pending(input_ids, self.last_tokens)

    def _make_buffers(self, max_batch: int) -> None:
        rows = self.max_num_seqs
        # Last sampled token of each row, on the device, so that a step need not wait for the CPU.
        self.last_tokens = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self._static_logits = torch.zeros(
            (rows if max_batch else 0, self.spec.vocab_size),
            dtype=torch.float32,
            device=self.device,
        )

    def _load_model(
        self, config: EngineConfig, hf_config: ModelConfig, progress: Progress
    ) -> CausalLM:
        dense = linear_method_for(self.dtype, self.device)
        quantization = read_quantization(
            getattr(hf_config, "quantization_config", None),
            config.quantization,
            dense=dense,
            dtype=self.dtype,
            device=self.device,
        )
        with weights_fit(self.device):
            model = build_model(
                hf_config,
                self.dtype,
                self.device,
                parallel=self.parallel,
                linear_method=dense,
                quantization=quantization,
                expert_parallel=config.enable_expert_parallel,
            )
            if config.load_format == "dummy":
                dummy_weights(model, config.seed)
            else:
                skips = None if quantization is None else quantization.skips
                load_weights(model, config.model_dir, progress=progress, skips=skips)
        model.requires_grad_(False)
        return model

    def _make_adapter_bank(self, config: EngineConfig) -> AdapterBank | None:
        if not config.enable_lora:
            return None
        with adapters_fit(config):
            return AdapterBank(
                self.model,
                slots=config.max_loras,
                max_rank=config.max_lora_rank,
                dtype=self.dtype,
                device=self.device,
                parallel=self.parallel,
            )

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
            *self.model.attention_tasks(
                self._kv_layout, static_shapes(self.max_num_seqs), max_model_len
            ),
            *linear_tasks(self.model, self.dtype, self.device),
        ]
        if self.parallel.rank == 0:  # no other rank samples
            tasks += sampler_tasks(self.sampling.sampler, self.spec.vocab_size, self.device)
        compile_kernels(tasks, progress, self.device)

    @torch.inference_mode()
    def _run_largest_step(self, max_model_len: int) -> None:
        kv_cache = self._kv_layout.allocate(1, self.device)
        batch = largest_batch(
            num_seqs=self.max_num_seqs,
            max_num_tokens=self.max_num_batched_tokens,
            max_model_len=max_model_len,
            block_size=self.block_size,
            device=self.device,
            adapter_slots=0 if self.adapters is None else self.adapters.num_slots,
        )
        hidden = self._run_model(batch, kv_cache)
        logits = self.model.compute_logits(hidden[batch.logits_indices])
        # Penalties and logprobs copy the logits; at most two copies exist at a time.
        copies = [torch.empty_like(logits) for _ in range(2)]
        del hidden, logits, copies


def _max_static_batch(config: EngineConfig, device: torch.device) -> int:
    """The largest decode batch that gets a static shape; 0: none."""
    if config.enforce_eager:
        return 0
    default = config.max_num_seqs if device.type == "cuda" else 0
    given = config.max_cudagraph_capture_size
    return min(default if given is None else given, config.max_num_seqs)
