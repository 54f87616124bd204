"""One sequence in the engine: its tokens, its blocks and three counters. Everything else about it
is a property. It knows neither the scheduler's queues nor any tensor.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from formgate.engine.hooks import TokenConstraint
from formgate.engine.sampling_params import SamplingParams


class SequenceStatus(enum.Enum):
    WAITING = enum.auto()
    RUNNING = enum.auto()
    FINISHED = enum.auto()


@dataclass(eq=False, slots=True)
class Sequence:
    """A prompt and what has been generated after it.

    A step brings `num_computed_tokens` closer to `num_tokens`: a whole prompt, a chunk of one, one
    decoded token and a run of forced tokens are the same case. Tokens are sampled only from a
    sequence that the step catches up.
    """

    request_id: str
    token_ids: list[int]  # prompt, then output
    num_prompt_tokens: int
    params: SamplingParams
    constraint: TokenConstraint | None = None
    lora_name: str | None = None
    priority: int = 0
    cache_salt: str | None = None
    arrival_time: float = 0.0  # time.monotonic(), seconds

    status: SequenceStatus = SequenceStatus.WAITING
    block_table: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0  # keys and values of these lie in the cache
    num_scheduled_tokens: int = 0  # query tokens of the step under way
    num_cached_tokens: int = 0  # prompt tokens that the first prefill found in the prefix cache

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def is_finished(self) -> bool:
        return self.status is SequenceStatus.FINISHED

    @property
    def catches_up(self) -> bool:
        """True if the step under way computes the last token, so that a next one is sampled."""
        return self.num_computed_tokens + self.num_scheduled_tokens == self.num_tokens
