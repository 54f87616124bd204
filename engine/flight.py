"""A step between its launch and the moment its tokens reach the CPU, and who reads them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from formgate.engine.execution.runner import NOTHING_COMPUTED, Forward
from formgate.engine.sampling.masks import StepMasks
from formgate.engine.sampling.stage import Sampling
from formgate.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Reader:
    """A sequence that catches up, and its rows of the step's logits."""

    sequence: Sequence
    rows: range


@dataclass(frozen=True, slots=True)
class Flight:
    readers: list[Reader] = field(default_factory=list)
    prompts: list[Sequence] = field(default_factory=list)  # of `forward.prompt_targets`
    forward: Forward = NOTHING_COMPUTED
    masks: StepMasks = field(default_factory=StepMasks)
    sampling: Sampling = field(default_factory=Sampling)


def readers_of(sequences: Iterable[Sequence]) -> list[Reader]:
    """The readers of a step that is scheduled, in the order of their rows."""
    readers: list[Reader] = []
    row = 0
    for sequence in sequences:
        if count := sequence.num_read_rows:
            readers.append(Reader(sequence, range(row, row + count)))
            row += count
    return readers
