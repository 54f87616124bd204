"""Chooses a token for every row of a step's logits, as the sequences' SamplingParams say. It knows
tensors and sequences; what a bitmask means and what becomes of the tokens is not its business.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence as ReadSequence
from dataclasses import dataclass, field

import torch

from formgate.engine.devices import to_device, to_host
from formgate.engine.logprobs import Logprobs, compute_logprobs
from formgate.engine.messages import PositionLogprobs
from formgate.engine.penalties import Penalties, TokenCounts, is_penalized
from formgate.engine.sequence import Sequence
from formgate.kernels.apply_bitmask import apply_bitmask

# On a CPU the best few are found much faster than a vocabulary is sorted, and mostly they hold
# all the mass that top_p asks for.
CPU_HEADS = (64, 1024)
# A uniform number times a float32 total must stay below that total.
LARGEST_UNIFORM = 1.0 - 2.0**-23
BROKEN = -1


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """What the CPU learns of a step, one entry per row of the logits."""

    token_ids: list[int]  # BROKEN in a broken row
    broken_rows: frozenset[int]  # their logits held NaN or nothing finite
    logprobs: list[PositionLogprobs | None]
    mask_wait: float = 0.0  # seconds; whoever waited for the masks knows


@dataclass(frozen=True, slots=True)
class DeviceSample:
    """What `launch` leaves on the device, on its way to the CPU; `fetch` waits for it."""

    device_ids: torch.Tensor  # int64 [rows], BROKEN where the logits were no numbers
    host_ids: torch.Tensor
    logprobs: Logprobs | None  # on the host
    logprob_rows: list[int]
    num_top: list[int]  # per row of `logprob_rows`
    arrived: torch.cuda.Event | None  # None: at once

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
        return SampledTokens(token_ids, broken, logprobs)


@dataclass(slots=True)
class _Plan:
    """What a batch of sequences asks for, as tensors; holds while the rows are the same."""

    sequences: list[Sequence]
    static_rows: torch.Tensor | None = None  # int64 [m]
    static_bias: torch.Tensor | None = None  # float32 [m, vocab]
    penalties: Penalties | None = None
    bad_word_rows: list[int] = field(default_factory=list)  # with words of several tokens
    min_token_rows: list[int] = field(default_factory=list)
    logprob_rows: list[int] = field(default_factory=list)
    num_top: list[int] = field(default_factory=list)
    logprob_index: torch.Tensor | None = None
    # Of the rows that are drawn; None of a field: no row needs it.
    random_rows: list[int] = field(default_factory=list)
    random_index: torch.Tensor | None = None
    seeded: list[tuple[int, int]] = field(default_factory=list)  # (place in random_rows, row)
    temperature: torch.Tensor | None = None  # float32 [r, 1], as are the others but top_k
    top_k: torch.Tensor | None = None  # int64 [r, 1], the vocabulary's size where off
    largest_top_k: int = 0  # of the rows where it is on
    top_p: torch.Tensor | None = None
    min_p: torch.Tensor | None = None


class Sampler:
    """`vocab_size` is the tokenizer's: logits past it are padding and are never looked at."""

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
        self._plan = _Plan([])

    def sample(
        self,
        logits: torch.Tensor,
        sequences: list[Sequence],
        bitmask: torch.Tensor | None = None,
        masked_rows: list[int] | None = None,
    ) -> SampledTokens:
        return self.launch(logits, sequences, bitmask, masked_rows).fetch()

    @torch.inference_mode()
    def launch(
        self,
        logits: torch.Tensor,
        sequences: list[Sequence],
        bitmask: torch.Tensor | None = None,
        masked_rows: list[int] | None = None,
    ) -> DeviceSample:
        """logits float32 [rows, padded_vocab], changed in place; row i belongs to `sequences[i]`,
        whose `token_ids` hold everything before the token to choose. bitmask int32 [rows, words];
        its row i is used if i is in `masked_rows` (None: all are). On CUDA nothing waits here.
        """
        assert logits.shape[0] == len(sequences)
        plan = self._plan_of(sequences)
        logits = logits[:, : self.vocab_size]
        raw = None if plan.logprob_index is None else logits.index_select(0, plan.logprob_index)

        self._edit(logits, plan)
        if bitmask is not None and (masked_rows is None or masked_rows):
            some = masked_rows is not None and len(masked_rows) < len(sequences)
            apply_bitmask(logits, bitmask, self._index(masked_rows) if some else None)
        self._withhold_stops(logits, plan)

        if plan.random_index is None:
            highest, token_ids = logits.max(dim=-1)
        elif len(plan.random_rows) == len(sequences):
            highest = logits.amax(-1)
            token_ids = self._draw(logits, highest, plan)
        else:
            highest, token_ids = logits.max(dim=-1)
            rows = plan.random_index
            drawn = self._draw(logits.index_select(0, rows), highest.index_select(0, rows), plan)
            token_ids.index_copy_(0, rows, drawn)
        token_ids = torch.where(highest.isfinite(), token_ids, BROKEN)

        logprobs: Logprobs | None = None
        if raw is not None and plan.logprob_index is not None:
            chosen = token_ids.index_select(0, plan.logprob_index).clamp_min_(0)
            logprobs = compute_logprobs(raw, chosen, max(plan.num_top)).to_host()
        host_ids = to_host(token_ids)
        arrived: torch.cuda.Event | None = None
        if self.device.type == "cuda":
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
        return DeviceSample(token_ids, host_ids, logprobs, plan.logprob_rows, plan.num_top, arrived)

    def _edit(self, logits: torch.Tensor, plan: _Plan) -> None:
        """Everything that shapes logits before the mask."""
        if plan.static_rows is not None and plan.static_bias is not None:
            logits.index_add_(0, plan.static_rows, plan.static_bias)
        banned = [
            (row, word[-1])
            for row in plan.bad_word_rows
            for word in plan.sequences[row].params.bad_words
            if len(word) > 1 and word[-1] < self.vocab_size
            if _output_ends_with(plan.sequences[row], word[:-1])
        ]
        if banned:
            rows, tokens = self._index(banned).unbind(1)
            logits[rows, tokens] = -math.inf
        if plan.penalties is not None:
            plan.penalties.apply(logits, self._counts)

    def _withhold_stops(self, logits: torch.Tensor, plan: _Plan) -> None:
        """min_tokens: no stop yet, unless the mask leaves nothing else."""
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

    def _draw(self, logits: torch.Tensor, highest: torch.Tensor, plan: _Plan) -> torch.Tensor:
        """int64 [r], drawn by inverting the cumulative distribution: one uniform number a row, so
        that a seeded row needs neither its own generator nor noise as wide as the vocabulary.
        """
        assert plan.temperature is not None
        # The highest logit comes to 0, so no temperature is too low to divide by.
        probs = ((logits - highest.unsqueeze(1)) / plan.temperature).softmax(-1)
        threshold = self._threshold(probs, plan)
        if threshold is not None:
            probs *= probs >= threshold
        cumulative = probs.cumsum(-1)
        targets = self._uniform(plan).unsqueeze(1) * cumulative[:, -1:]
        found = torch.searchsorted(cumulative, targets, right=True)
        found.clamp_(max=self.vocab_size - 1)  # of a row of NaN
        if probs.is_cuda:
            # A parallel sum may rise by a rounding where there is no mass; a token that a mask
            # forbids must not be found there.
            best = probs.argmax(-1, keepdim=True)
            found = torch.where(probs.gather(1, found) > 0, found, best)
        return found.squeeze(1)

    def _threshold(self, probs: torch.Tensor, plan: _Plan) -> torch.Tensor | None:
        """[r, 1]: the smallest probability that top_k, then top_p, then min_p leave; None: all."""
        threshold: torch.Tensor | None = None
        if plan.top_k is not None or plan.top_p is not None:
            head = _head(probs, plan)  # [r, m], descending
            cumulative = head.cumsum(-1)
            last = torch.full_like(cumulative[:, :1], head.shape[1] - 1, dtype=torch.int64)
            total = torch.ones_like(cumulative[:, :1])
            if plan.top_k is not None:
                limited = plan.top_k <= head.shape[1]
                last = torch.where(limited, plan.top_k - 1, last)
                total = torch.where(limited, cumulative.gather(1, last), total)
            off = last == head.shape[1] - 1 if plan.top_k is None else ~limited
            if plan.top_p is not None:
                # Kept: a token before which less than top_p has been gathered.
                kept = (cumulative - head < plan.top_p * total).sum(-1, keepdim=True)
                last = torch.minimum(last, kept.clamp_(min=1) - 1)
                off = off & (plan.top_p >= 1.0)
            threshold = head.gather(1, last).masked_fill_(off, 0.0)
        if plan.min_p is not None:
            relative = plan.min_p * probs.amax(-1, keepdim=True)
            threshold = relative if threshold is None else torch.maximum(threshold, relative)
        return threshold

    def _uniform(self, plan: _Plan) -> torch.Tensor:
        """float32 [r] in [0, 1)"""
        numbers = torch.rand(len(plan.random_rows), generator=self._generator)
        seeded = numbers.numpy()
        for place, row in plan.seeded:
            sequence = plan.sequences[row]
            assert sequence.params.seed is not None
            seeded[place] = _seeded_uniform(sequence.params.seed, sequence.num_output_tokens)
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
        biased: list[int] = []
        penalized: list[int] = []
        for row, sequence in enumerate(sequences):
            params = sequence.params
            has_short_word = any(len(word) == 1 for word in params.bad_words)
            if params.logit_bias or params.allowed_token_ids is not None or has_short_word:
                biased.append(row)
            if any(len(word) > 1 for word in params.bad_words):
                plan.bad_word_rows.append(row)
            if is_penalized(params):
                penalized.append(row)
            if params.min_tokens > sequence.num_output_tokens:
                plan.min_token_rows.append(row)
            if params.logprobs is not None:
                plan.logprob_rows.append(row)
                plan.num_top.append(params.logprobs)
            if params.temperature > 0.0:
                plan.random_rows.append(row)
        if biased:
            plan.static_rows = self._index(biased)
            biases = [self._static_bias(sequences[row]) for row in biased]
            plan.static_bias = to_device(torch.stack(biases), self.device)
        if penalized:
            plan.penalties = Penalties(penalized, sequences, self.device)
        if plan.logprob_rows:
            plan.logprob_index = self._index(plan.logprob_rows)
        if plan.random_rows:
            self._plan_draw(plan)
        return plan

    def _plan_draw(self, plan: _Plan) -> None:
        params = [plan.sequences[row].params for row in plan.random_rows]
        plan.seeded = [
            (place, row)
            for place, row in enumerate(plan.random_rows)
            if params[place].seed is not None
        ]
        plan.random_index = self._index(plan.random_rows)
        plan.temperature = self._column([p.temperature for p in params])
        top_ks = [p.top_k if 0 < p.top_k < self.vocab_size else 0 for p in params]
        if any(top_ks):
            limits = [top_k or self.vocab_size for top_k in top_ks]
            plan.top_k = self._index(limits).unsqueeze(1)
            plan.largest_top_k = max(top_ks)
        if any(p.top_p < 1.0 for p in params):
            plan.top_p = self._column([p.top_p for p in params])
        if any(p.min_p > 0.0 for p in params):
            plan.min_p = self._column([p.min_p for p in params])

    def _static_bias(self, sequence: Sequence) -> torch.Tensor:
        """float32 [vocab], on the CPU. Ids past the vocabulary name nothing and are left out."""
        params = sequence.params
        bias = torch.zeros(self.vocab_size)
        if params.allowed_token_ids is not None:
            bias.fill_(-math.inf)
            bias[[t for t in params.allowed_token_ids if t < self.vocab_size]] = 0.0
        for token_id, value in (params.logit_bias or {}).items():
            if token_id < self.vocab_size:
                bias[token_id] += value
        for word in params.bad_words:
            if len(word) == 1 and word[0] < self.vocab_size:
                bias[word[0]] = -math.inf
        return bias

    def _index(self, numbers: list[int] | list[tuple[int, int]] | None) -> torch.Tensor:
        return to_device(torch.tensor(numbers, dtype=torch.int64), self.device)

    def _column(self, values: list[float]) -> torch.Tensor:
        return to_device(torch.tensor(values, dtype=torch.float32), self.device).unsqueeze(1)


def _head(probs: torch.Tensor, plan: _Plan) -> torch.Tensor:
    """The largest probabilities of each row, descending: as many as top_k and top_p can need."""
    vocab_size = probs.shape[1]
    if plan.top_p is None:
        return probs.topk(plan.largest_top_k).values
    if probs.device.type == "cpu":
        for size in CPU_HEADS:
            size = max(size, plan.largest_top_k)
            if size >= vocab_size:
                break
            head = probs.topk(size).values
            enough = head.sum(-1, keepdim=True) >= plan.top_p
            enough |= plan.top_p >= 1.0
            if plan.top_k is not None:
                enough |= plan.top_k <= size
            if bool(enough.all()):
                return head
    return probs.sort(dim=-1, descending=True).values


def _seeded_uniform(seed: int, num_output_tokens: int) -> float:
    """A function of the two numbers alone: no batch, device or preemption changes it."""
    digest = hashlib.blake2b(f"{seed}:{num_output_tokens}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 40) * 2.0**-24


def _output_ends_with(sequence: Sequence, tokens: tuple[int, ...]) -> bool:
    return (
        sequence.num_output_tokens >= len(tokens)
        and tuple(sequence.token_ids[-len(tokens) :]) == tokens
    )
