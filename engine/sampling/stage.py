"""From a step's logits to its tokens: sends the masks beside the forward pass, samples, and leaves
the tokens on the device for the next step. Only the rank that speaks has one.
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


class SamplingStage:
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
        """Where the masks of a step's rows are written before `launch`: [max_num_seqs, words]"""
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
        """Choose a token for each row of the logits, of which row `i` belongs to `sequences[i]`.
        `computed`: when the logits are there. On CUDA it returns at once.
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
        # A broken row's token is never seen, but the next step may be launched with it.
        torch.clamp(sample.device_ids, min=0, out=self._last_tokens[:num_rows])
        if not self._on_cuda:
            return Sampling(sample, masks.seconds)
        return Sampling(sample, 0.0, computed, masked)

    def _send_masks(self, num_rows: int) -> torch.Tensor:
        """Copied beside the forward pass, not behind it."""
        if self._mask_stream is None:
            return self._bitmask[:num_rows]
        with torch.cuda.stream(self._mask_stream):
            # The sampling that read it last is over: its tokens have been fetched.
            self._device_bitmask[:num_rows].copy_(self._bitmask[:num_rows], non_blocking=True)
        torch.cuda.current_stream().wait_stream(self._mask_stream)
        return self._device_bitmask[:num_rows]
