"""From a step's logits to its tokens: copies the masks during the forward pass, samples, and leaves
the tokens on the device for the next step. Only rank 0 samples.
"""

from __future__ import annotations

from collections.abc import Sequence as ReadSequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from formgate.engine.devices import record_event
from formgate.engine.sampling.masks import StepMasks
from formgate.engine.sampling.sampler import DeviceSample, SampledTokens, Sampler
from formgate.engine.sequence import Sequence

NO_TOKENS = SampledTokens([], frozenset(), [])


@dataclass(frozen=True, slots=True)
class Sampling:
    """A launched sampling. `fetch` waits for its tokens."""

    sample: DeviceSample | None = None
    mask_wait: float = 0.0  # seconds, if there are no events to measure it
    computed: torch.cuda.Event | None = None  # the logits are computed
    masked: torch.cuda.Event | None = None  # the masks are on the device

    def fetch(self) -> SampledTokens:
        if self.sample is None:
            return NO_TOKENS
        tokens = self.sample.fetch()
        wait = self.mask_wait
        if self.computed is not None and self.masked is not None:
            # The device idled between the two events. `elapsed_time` is in milliseconds.
            wait = self.computed.elapsed_time(self.masked) / 1000
        return replace(tokens, mask_wait=wait)


class SamplingStage:
    """Owns the bitmask buffers and the sampler."""

    def __init__(
        self,
        last_tokens: torch.Tensor,  # int64 [max_num_seqs]: by row, written by `launch`
        *,
        max_num_seqs: int,
        vocab_size: int,
        padded_vocab_size: int,
        eos_token_ids: ReadSequence[int],
        seed: int,
    ) -> None:
        self._last_tokens = last_tokens
        device = last_tokens.device
        self._on_cuda = device.type == "cuda"
        self.sampler = Sampler(
            vocab_size=vocab_size, eos_token_ids=eos_token_ids, device=device, seed=seed
        )
        words = -(-padded_vocab_size // 32)
        self._bitmask = torch.zeros(
            (max_num_seqs, words), dtype=torch.int32, pin_memory=self._on_cuda
        )
        self._device_bitmask = self._bitmask.to(device)
        self._mask_stream: torch.cuda.Stream | None = None
        if self._on_cuda:
            self._mask_stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @property
    def bitmask(self) -> NDArray[np.int32]:
        """int32 [max_num_seqs, words]. Write a step's masks here before `launch`."""
        array: NDArray[np.int32] = self._bitmask.numpy()
        return array

    @torch.inference_mode()
    def launch(
        self,
        logits: torch.Tensor | None,
        sequences: ReadSequence[Sequence],
        masks: StepMasks,
        computed: torch.cuda.Event | None,
    ) -> Sampling:
        """Start sampling; on CUDA it returns at once. Row `i` of the logits belongs to
        `sequences[i]`. `computed`: the event after the logits' computation.
        """
        if logits is None:
            return Sampling()
        num_rows = len(sequences)
        bitmask = None
        masked: torch.cuda.Event | None = None
        if masks.masked_rows:
            bitmask = self._send_masks(num_rows)
            if computed is not None:
                masked = record_event()
        sample = self.sampler.launch(logits, list(sequences), bitmask, masks.masked_rows)
        # A broken row's token is never emitted, but the next step may already compute with it.
        torch.clamp(sample.device_ids, min=0, out=self._last_tokens[:num_rows])
        if not self._on_cuda:
            return Sampling(sample, masks.seconds)
        return Sampling(sample, 0.0, computed, masked)

    def _send_masks(self, num_rows: int) -> torch.Tensor:
        """Copy the masks on a side stream, in parallel to the forward pass."""
        if self._mask_stream is None:
            return self._bitmask[:num_rows]
        with torch.cuda.stream(self._mask_stream):
            # Safe to overwrite: the last sampling's tokens have been fetched.
            self._device_bitmask[:num_rows].copy_(self._bitmask[:num_rows], non_blocking=True)
        torch.cuda.current_stream().wait_stream(self._mask_stream)
        return self._device_bitmask[:num_rows]
