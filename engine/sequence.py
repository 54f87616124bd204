"""One sequence in the engine: its tokens, its blocks and three counters. Everything else about it
is a property. It knows neither the scheduler's queues nor any tensor.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from formgate.engine.hooks import TokenConstraint
from formgate.engine.messages import PositionLogprobs
from formgate.engine.sampling_params import SamplingParams

NO_ROWS = range(0)


class SequenceStatus(enum.Enum):
    NEW = enum.auto()  # not yet handed to the scheduler: its constraint is being built
    WAITING = enum.auto()
    RUNNING = enum.auto()
    FINISHED = enum.auto()


@dataclass(eq=False, slots=True, weakref_slot=True)
class Sequence:
    """A prompt and what has been generated after it.

    A step brings `num_computed_tokens` closer to `num_tokens`: a whole prompt, a chunk of one, one
    decoded token and a run of forced tokens are the same case. Tokens are sampled only from a
    sequence that the step catches up.

    A token that is sampled but still on the device is pending: the next step may already compute
    with it, and only then does the CPU learn which one it is. A pending token is always the last.
    """

    request_id: str
    token_ids: list[int]  # prompt, then output
    num_prompt_tokens: int
    params: SamplingParams
    constraint: TokenConstraint | None = None
    held: bool = False  # waits for its constraint: all but its last token may be computed
    lora_name: str | None = None
    lora_content: str | None = None  # hash of the adapter's weights; part of every block's hash
    priority: int = 0
    cache_salt: str | None = None
    arrival_time: float = 0.0  # time.monotonic(), seconds
    first_scheduled_time: float | None = None

    status: SequenceStatus = SequenceStatus.NEW
    block_table: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)  # of the full blocks, as far as known
    num_computed_tokens: int = 0  # keys and values of these lie in the cache
    num_scheduled_tokens: int = 0  # query tokens of the step under way
    pending_rows: range = NO_ROWS  # of the last step's logits, where its next tokens are sampled
    num_offered_blocks: int = 0  # the first of its blocks: others may find them
    num_cached_tokens: int = 0  # prompt tokens that the first prefill found in the prefix cache
    num_told_tokens: int = 0  # output tokens that were handed out
    num_forced_tokens: int = 0  # output tokens that the constraint left no choice for
    prompt_logprobs: list[PositionLogprobs | None] = field(default_factory=list)  # so far

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids) + len(self.pending_rows)

    @property
    def num_output_tokens(self) -> int:
        """Of the tokens that are known."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_uncomputed_tokens(self) -> int:
        return self.num_tokens - self.num_computed_tokens

    @property
    def num_computable_tokens(self) -> int:
        return self.num_uncomputed_tokens - self.held

    @property
    def wants_prompt_logprobs(self) -> bool:
        """True while its prompt may still be computed, and the logprobs of it are asked for."""
        return self.params.prompt_logprobs is not None and self.num_output_tokens == 0

    @property
    def may_be_forced(self) -> bool:
        """True if forced tokens may be appended: some answers depend on logits that a forced token
        does not have.
        """
        params = self.params
        return (
            self.constraint is not None
            and params.logprobs is None
            and not params.trace
            and not params.bad_words
            and params.allowed_token_ids is None
        )

    @property
    def is_finished(self) -> bool:
        return self.status is SequenceStatus.FINISHED

    @property
    def catches_up(self) -> bool:
        """True if the step under way computes the last token, so that a next one is sampled."""
        return self.num_computed_tokens + self.num_scheduled_tokens == self.num_tokens

    @property
    def num_read_rows(self) -> int:
        """Rows of logits that the step under way gives the sequence, for its last query tokens."""
        return int(self.catches_up)
