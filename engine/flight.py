"""A step between its launch and the arrival of its tokens on the CPU."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from formgate.engine.execution.runner import NOTHING_COMPUTED, Forward
from formgate.engine.messages import PositionLogprobs, TokenOutput
from formgate.engine.sampling.masks import StepMasks
from formgate.engine.sampling.stage import Sampling
from formgate.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Reader:
    """A sequence whose next token is sampled in the step, and its rows of the logits."""

    sequence: Sequence
    rows: range


@dataclass(frozen=True, slots=True)
class Flight:
    """A launched step. The default is a step that computes nothing."""

    readers: list[Reader] = field(default_factory=list)
    prompts: list[Sequence] = field(default_factory=list)  # one per `forward.prompt_targets`
    forward: Forward = NOTHING_COMPUTED
    masks: StepMasks = field(default_factory=StepMasks)
    sampling: Sampling = field(default_factory=Sampling)


def readers_of(sequences: Iterable[Sequence]) -> list[Reader]:
    """The readers among scheduled sequences, in the order of their rows."""
    readers: list[Reader] = []
    row = 0
    for sequence in sequences:
        if count := sequence.num_read_rows:
            readers.append(Reader(sequence, range(row, row + count)))
            row += count
    return readers


def describe_prompt(output: TokenOutput, sequence: Sequence) -> None:
    """Put into the first output what only a prompt has."""
    output.num_cached_tokens = sequence.num_cached_tokens
    if sequence.first_scheduled_time is not None:
        output.queue_time = sequence.first_scheduled_time - sequence.arrival_time
    if sequence.params.prompt_logprobs is not None:
        nothing_before: list[PositionLogprobs | None] = [None]
        output.prompt_logprobs = nothing_before + sequence.prompt_logprobs
