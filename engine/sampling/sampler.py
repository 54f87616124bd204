"""Samples a token for every row of a step's logits by the sequences' SamplingParams. It knows
tensors and sequences, not grammars or scheduling.

Order: bias, bad words and penalties; the bitmask; min_tokens; temperature, top-k, top-p, min-p; the
draw. min_tokens comes after the mask, because it allows a stop if the mask leaves nothing else.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence as ReadSequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch

from formgate.engine.devices import to_device, to_host
from formgate.engine.messages import PositionLogprobs, TokenTrace
from formgate.engine.sampling.logprobs import Logprobs, compute_logprobs
from formgate.engine.sampling.penalties import Penalties, TokenCounts, is_penalized
from formgate.engine.sampling.request_bias import BatchBias, RequestBias, has_bias
from formgate.engine.sampling.trace import Traces, launch_traces
from formgate.engine.sequence import Sequence
from formgate.kernels.apply_bitmask import apply_bitmask
from formgate.kernels.sample_tokens import BROKEN, sample_tokens

# A uniform number times a float32 total must stay below that total.
LARGEST_UNIFORM = 1.0 - 2.0**-23


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """A step's results on the CPU, one entry per row of the logits."""

    token_ids: list[int]  # BROKEN in a broken row
    broken_rows: frozenset[int]  # rows whose logits hold NaN or no finite value
    logprobs: list[PositionLogprobs | None]
    mask_wait: float = 0.0  # seconds; set by `Sampling.fetch`
    traces: dict[int, TokenTrace] = field(default_factory=dict)  # by row, if requested


@dataclass(frozen=True, slots=True)
class DeviceSample:
    """The result of `launch`, on its way to the CPU. `fetch` waits for it."""

    device_ids: torch.Tensor  # int64 [rows], BROKEN in a broken row
    host_ids: torch.Tensor
    logprobs: Logprobs | None  # on the host
    logprob_rows: list[int]
    num_top: list[int]  # per row of `logprob_rows`
    arrived: torch.cuda.Event | None  # None: already on the host
    traces: Traces | None  # on the host

    def fetch(self) -> SampledTokens:
        if self.arrived is not None:
            self.arrived.synchronize()
        token_ids: list[int] = self.host_ids.tolist()
        logprobs: list[PositionLogprobs | None] = [None] * len(token_ids)
        if self.logprobs is not None:
            positions = self.logprobs.positions(self.num_top)
            for row, position in zip(self.logprob_rows, positions, strict=True):
                logprobs[row] = position
        broken = frozenset(row for row, token_id in enumerate(token_ids) if token_id == BROKEN)
        traces = {} if self.traces is None else self.traces.fetch()
        return SampledTokens(token_ids, broken, logprobs, traces=traces)


@dataclass(slots=True)
class _Plan:
    """The sampling parameters of a batch as tensors; reused while the batch has the same rows."""

    sequences: list[Sequence]
    bias: BatchBias | None = None
    penalties: Penalties | None = None
    # Rows with bad words of several tokens.
    bad_words: list[tuple[int, RequestBias]] = field(default_factory=list)
    min_token_rows: list[int] = field(default_factory=list)
    logprob_rows: list[int] = field(default_factory=list)
    num_top: list[int] = field(default_factory=list)
    logprob_index: torch.Tensor | None = None
    trace_rows: list[int] = field(default_factory=list)
    random: bool = False  # True if any row is not greedy
    seeded_rows: list[int] = field(default_factory=list)
    # Of all rows. A limit is None if no row uses it.
    temperature: torch.Tensor = field(default_factory=lambda: torch.zeros(0))  # float32 [rows]
    top_k: torch.Tensor | None = None  # int64 [rows], the vocabulary's size where off
    top_p: torch.Tensor | None = None
    min_p: torch.Tensor | None = None


class Sampler:
    """`vocab_size` is the tokenizer's: logits past it are padding and are never sampled."""

    def __init__(
        self,
        *,
        vocab_size: int,
        eos_token_ids: ReadSequence[int],
        device: torch.device,
        seed: int = 0,
    ) -> None:
        self.vocab_size = vocab_size
        self.eos_token_ids = tuple(eos_token_ids)
        self.device = device
        self._generator = torch.Generator().manual_seed(seed)
        self._counts = TokenCounts(vocab_size, device)
        self._biases: WeakKeyDictionary[Sequence, RequestBias] = WeakKeyDictionary()
        self._plan = _Plan([])

    def warm_up(self, logits: torch.Tensor, bitmask: torch.Tensor) -> None:
        """Compile the bitmask kernels, so that the first constrained request does not stall the
        others. Arguments as for `launch`; `logits` is overwritten.
        """
        logits = logits[:, : self.vocab_size]
        apply_bitmask(logits, bitmask)
        apply_bitmask(logits, bitmask, self._index([0]))

    def warm_up_limits(self, logits: torch.Tensor, *, top_p: bool) -> None:
        """Compile the sampling kernels for each combination of top-k and min-p, with or without
        top-p.
        """
        logits = logits[:, : self.vocab_size]
        rows = logits.shape[0]
        ones = self._numbers([1.0] * rows)
        for top_k in (None, self._index([self.vocab_size] * rows)):
            for min_p in (None, ones * 0.5):
                sample_tokens(logits, ones * 0.5, ones, top_k, ones if top_p else None, min_p)

    def sample(
        self,
        logits: torch.Tensor,
        sequences: list[Sequence],
        bitmask: torch.Tensor | None = None,
        masked_rows: list[int] | None = None,
    ) -> SampledTokens:
        """`launch` and `fetch` in one call."""
        return self.launch(logits, sequences, bitmask, masked_rows).fetch()

    @torch.inference_mode()
    def launch(
        self,
        logits: torch.Tensor,
        sequences: list[Sequence],
        bitmask: torch.Tensor | None = None,
        masked_rows: list[int] | None = None,
    ) -> DeviceSample:
        """Start sampling; on CUDA it returns at once. logits float32 [rows, padded_vocab], changed
        in place; row i belongs to `sequences[i]`, whose `token_ids` precede the token to sample.
        bitmask int32 [rows, words]; row i applies if i is in `masked_rows` (None: all rows).
        """
        assert logits.shape[0] == len(sequences)
        plan = self._plan_of(sequences)
        logits = logits[:, : self.vocab_size]
        raw = None if plan.logprob_index is None else logits.index_select(0, plan.logprob_index)
        traces = launch_traces(logits, bitmask, masked_rows, plan.trace_rows)

        self._apply_bias_and_penalties(logits, plan)
        if bitmask is not None and (masked_rows is None or masked_rows):
            some = masked_rows is not None and len(masked_rows) < len(sequences)
            apply_bitmask(logits, bitmask, self._index(masked_rows) if some else None)
        self._withhold_stops(logits, plan)

        token_ids = sample_tokens(
            logits, self._uniform(plan), plan.temperature, plan.top_k, plan.top_p, plan.min_p
        )

        logprobs: Logprobs | None = None
        if raw is not None and plan.logprob_index is not None:
            chosen = token_ids.index_select(0, plan.logprob_index).clamp_min_(0)
            logprobs = compute_logprobs(raw, chosen, max(plan.num_top)).to_host()
        host_ids = to_host(token_ids)
        arrived: torch.cuda.Event | None = None
        if self.device.type == "cuda":
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
        return DeviceSample(
            token_ids, host_ids, logprobs, plan.logprob_rows, plan.num_top, arrived, traces
        )

    def _apply_bias_and_penalties(self, logits: torch.Tensor, plan: _Plan) -> None:
        """Apply every change of the logits that precedes the mask."""
        if plan.bias is not None:
            plan.bias.apply(logits)
        banned = [
            (row, token_id)
            for row, request in plan.bad_words
            for token_id in request.banned_after(plan.sequences[row])
        ]
        if banned:
            rows, tokens = self._index(banned).unbind(1)
            logits[rows, tokens] = -math.inf
        if plan.penalties is not None:
            plan.penalties.apply(logits, self._counts)

    def _withhold_stops(self, logits: torch.Tensor, plan: _Plan) -> None:
        """Apply min_tokens: exclude EOS and stop ids, unless the mask leaves nothing else."""
        stops = [
            (row, token_id)
            for row in plan.min_token_rows
            if plan.sequences[row].num_output_tokens < plan.sequences[row].params.min_tokens
            for token_id in self._stop_ids(plan.sequences[row])
        ]
        if not stops:
            return
        rows, tokens = self._index(stops).unbind(1)
        withheld = logits[rows, tokens]
        logits[rows, tokens] = -math.inf
        nothing_left = logits.index_select(0, rows).amax(-1) == -math.inf
        logits[rows, tokens] = torch.where(nothing_left, withheld, -math.inf)

    def _stop_ids(self, sequence: Sequence) -> set[int]:
        stops = set(sequence.params.stop_token_ids)
        if not sequence.params.ignore_eos:
            stops.update(self.eos_token_ids)
        return {token_id for token_id in stops if token_id < self.vocab_size}

    def _uniform(self, plan: _Plan) -> torch.Tensor:
        """Random numbers, float32 [rows] in [0, 1)"""
        if not plan.random:
            return plan.temperature  # not used by greedy rows
        numbers = torch.rand(len(plan.sequences), generator=self._generator)
        seeded = numbers.numpy()
        for row in plan.seeded_rows:
            sequence = plan.sequences[row]
            assert sequence.params.seed is not None
            seeded[row] = _seeded_uniform(sequence.params.seed, sequence.num_output_tokens)
        return to_device(numbers.clamp_(max=LARGEST_UNIFORM), self.device)

    def _plan_of(self, sequences: list[Sequence]) -> _Plan:
        known = self._plan.sequences
        if len(known) != len(sequences) or any(
            a is not b for a, b in zip(known, sequences, strict=True)
        ):
            self._plan = self._make_plan(list(sequences))
        return self._plan

    def _make_plan(self, sequences: list[Sequence]) -> _Plan:
        plan = _Plan(sequences)
        biased: list[tuple[int, RequestBias]] = []
        penalized: list[int] = []
        for row, sequence in enumerate(sequences):
            params = sequence.params
            if has_bias(params):
                request = self._bias_of(sequence)
                biased.append((row, request))
                if request.endings:
                    plan.bad_words.append((row, request))
            if is_penalized(params):
                penalized.append(row)
            if params.min_tokens > sequence.num_output_tokens:
                plan.min_token_rows.append(row)
            if params.logprobs is not None:
                plan.logprob_rows.append(row)
                plan.num_top.append(params.logprobs)
            if params.trace:
                plan.trace_rows.append(row)
            if params.temperature > 0.0 and params.seed is not None:
                plan.seeded_rows.append(row)
        if biased:
            plan.bias = BatchBias.of(biased, self.device)
        if penalized:
            plan.penalties = Penalties(penalized, sequences, self.device)
        if plan.logprob_rows:
            plan.logprob_index = self._index(plan.logprob_rows)
        self._plan_draw(plan)
        return plan

    def _plan_draw(self, plan: _Plan) -> None:
        params = [sequence.params for sequence in plan.sequences]
        plan.temperature = self._numbers([p.temperature for p in params])
        drawn = [p for p in params if p.temperature > 0.0]
        plan.random = bool(drawn)
        if any(0 < p.top_k < self.vocab_size for p in drawn):
            limits = [p.top_k if 0 < p.top_k < self.vocab_size else self.vocab_size for p in params]
            plan.top_k = self._index(limits)
        if any(p.top_p < 1.0 for p in drawn):
            plan.top_p = self._numbers([p.top_p for p in params])
        if any(p.min_p > 0.0 for p in drawn):
            plan.min_p = self._numbers([p.min_p for p in params])

    def _bias_of(self, sequence: Sequence) -> RequestBias:
        known = self._biases.get(sequence)
        if known is None:
            known = self._biases[sequence] = RequestBias.of(sequence.params, self.vocab_size)
        return known

    def _index(self, numbers: list[int] | list[tuple[int, int]] | None) -> torch.Tensor:
        return to_device(torch.tensor(numbers, dtype=torch.int64), self.device)

    def _numbers(self, values: list[float]) -> torch.Tensor:
        return to_device(torch.tensor(values, dtype=torch.float32), self.device)


def _seeded_uniform(seed: int, num_output_tokens: int) -> float:
    """A number in [0, 1) that depends on no batch, device or preemption."""
    digest = hashlib.blake2b(f"{seed}:{num_output_tokens}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 40) * 2.0**-24
