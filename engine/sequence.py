"""One sequence in the engine: its tokens, its blocks and its counters. It knows neither the
scheduler's queues nor any tensor.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from formgate.engine.adapter import Adapter
from formgate.engine.hooks import TokenConstraint
from formgate.engine.messages import PositionLogprobs
from formgate.engine.sampling_params import SamplingParams

NO_ROWS = range(0)


class SequenceStatus(enum.Enum):
    NEW = enum.auto()  # not in the scheduler yet: its constraint is being built
    WAITING = enum.auto()
    RUNNING = enum.auto()
    FINISHED = enum.auto()


@dataclass(eq=False, slots=True, weakref_slot=True)
class Sequence:
    """A prompt and its output.

    Each step brings `num_computed_tokens` closer to `num_tokens`: a whole prompt, a prefill chunk,
    one decoded token and a run of forced tokens are the same case. A token is sampled only if the
    step computes the last token of the sequence.

    A token that is sampled but not yet known to the CPU is pending. The next step may already
    compute with it. A pending token is always the last one.
    """

    request_id: str
    token_ids: list[int]  # prompt, then output
    num_prompt_tokens: int
    params: SamplingParams
    constraint: TokenConstraint | None = None
    held: bool = False  # its constraint is not built yet: compute all tokens but the last
    adapter: Adapter | None = None
    adapter_slot: int = -1  # of a running sequence, if it has an adapter
    priority: int = 0
    cache_salt: str | None = None
    arrival_time: float = 0.0  # time.monotonic(), seconds
    first_scheduled_time: float | None = None

    status: SequenceStatus = SequenceStatus.NEW
    block_table: list[int] = field(default_factory=list)
    num_unreached_blocks: int = 0  # leading ones that no window reaches any more: released
    block_hashes: list[bytes] = field(default_factory=list)  # of the full blocks, as far as known
    num_computed_tokens: int = 0  # tokens whose keys and values are in the cache
    num_scheduled_tokens: int = 0  # query tokens in the current step
    pending_rows: range = NO_ROWS  # rows of the last step's logits that sample its pending tokens
    num_published_blocks: int = 0  # leading blocks that the prefix cache offers to others
    num_cached_tokens: int = 0  # prompt tokens that the first prefill found in the prefix cache
    num_emitted_tokens: int = 0  # output tokens that were sent to the client
    num_forced_tokens: int = 0  # output tokens that the constraint forced
    prompt_logprobs: list[PositionLogprobs | None] = field(default_factory=list)  # so far

    @property
    def adapter_content(self) -> str | None:
        """Hash of the adapter's weights; part of every block's hash."""
        return None if self.adapter is None else self.adapter.content

    @property
    def held_blocks(self) -> list[int]:
        """The blocks that the sequence has a reference on."""
        return self.block_table[self.num_unreached_blocks :]

    @property
    def num_tokens(self) -> int:
        """Prompt, output and pending tokens."""
        return len(self.token_ids) + len(self.pending_rows)

    @property
    def num_output_tokens(self) -> int:
        """Output tokens known to the CPU; pending ones do not count."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_uncomputed_tokens(self) -> int:
        return self.num_tokens - self.num_computed_tokens

    @property
    def num_computable_tokens(self) -> int:
        """Tokens that may be scheduled; a held sequence keeps its last one back."""
        return self.num_uncomputed_tokens - self.held

    @property
    def wants_prompt_logprobs(self) -> bool:
        """True if prompt logprobs are requested and there is no output yet."""
        return self.params.prompt_logprobs is not None and self.num_output_tokens == 0

    @property
    def may_be_forced(self) -> bool:
        """True if forced tokens may skip sampling: the request reads or edits no logits itself."""
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
        """True if the current step computes the last token, so that the next one is sampled."""
        return self.num_computed_tokens + self.num_scheduled_tokens == self.num_tokens

    @property
    def num_read_rows(self) -> int:
        """Rows of logits of the current step, for the sequence's last query tokens."""
        return int(self.catches_up)
