"""Chooses the sequences of the next step, the number of tokens of each, and the sequences to
preempt when the KV cache is full. It handles Python lists and block numbers; it never sees a tensor
or a token's text.
"""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from formgate.engine.scheduling.adapter_slots import AdapterPass, AdapterSlots
from formgate.engine.scheduling.block_tables import BlockTables
from formgate.engine.sequence import Sequence, SequenceStatus
from formgate.engine.step import SHORT_QUERY

Order = tuple[int, float]  # the smallest is admitted first and preempted last

ORDERS: dict[str, Callable[[Sequence], Order]] = {
    "fcfs": lambda sequence: (0, sequence.arrival_time),
    "priority": lambda sequence: (sequence.priority, sequence.arrival_time),
}


@dataclass(slots=True)
class Schedule:
    """The work of one step: each sequence computes its next `num_scheduled_tokens`."""

    sequences: list[Sequence] = field(default_factory=list)
    num_tokens: int = 0
    num_decode_tokens: int = 0  # of sequences that decode, forced tokens included
    num_preemptions: int = 0
    prefix_queries: int = 0  # prompt tokens looked up in the prefix cache
    prefix_hits: int = 0

    def add(self, sequence: Sequence, num_tokens: int) -> None:
        assert num_tokens > 0
        sequence.num_scheduled_tokens = num_tokens
        self.sequences.append(sequence)
        self.num_tokens += num_tokens
        if not _is_prompt(sequence):
            self.num_decode_tokens += num_tokens

    def remove(self, sequence: Sequence) -> None:
        """Undo `add`, if there was one."""
        if sequence.num_scheduled_tokens:
            self.num_tokens -= sequence.num_scheduled_tokens
            if not _is_prompt(sequence):
                self.num_decode_tokens -= sequence.num_scheduled_tokens
            sequence.num_scheduled_tokens = 0
            self.sequences.remove(sequence)


class Scheduler:
    """Call `add` and `finish` between steps, `schedule` before a step, `advance` after its launch.

    The KV cache holds at least one sequence of `max_model_len` tokens. The first sequence in order
    can therefore always run, and none waits for ever.
    """

    def __init__(
        self,
        tables: BlockTables,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        policy: Literal["fcfs", "priority"] = "fcfs",
        adapters: AdapterSlots | None = None,
        whole_prompts: bool = False,
        max_prompt_tokens: int = 0,
    ) -> None:
        """`adapters`: None if no sequence has one. `whole_prompts`: a prompt that would not fit
        behind another one waits for a step of its own, rather than to be cut. `max_prompt_tokens`:
        of a step in which others decode, who all wait for it; 0: as many as fit. Whole prompts
        have no such limit.
        """
        assert tables.pool.num_blocks >= tables.num_blocks_for(max_model_len)
        assert max_num_batched_tokens >= max_num_seqs > 0
        self.tables = tables
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.max_model_len = max_model_len
        self.waiting: list[Sequence] = []  # sorted by `_order`
        self.running: list[Sequence] = []
        self._order = ORDERS[policy]
        self._adapters = adapters
        self._whole_prompts = whole_prompts
        self._max_prompt_tokens = 0 if whole_prompts else max_prompt_tokens
        # Hashes of the blocks that the current step fills. A sequence with the same prefix is
        # admitted one step later, when the prefix cache has it.
        self._filling: set[bytes] = set()

    @property
    def has_work(self) -> bool:
        """False if every sequence is held back until its constraint is built."""
        return bool(self.waiting) or any(s.num_computable_tokens for s in self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises ValueError if its prompt leaves no room for an answer."""
        if sequence.num_tokens >= self.max_model_len:
            raise ValueError(
                f"the prompt has {sequence.num_tokens} tokens; prompt and answer together may have "
                f"{self.max_model_len}"
            )
        self._wait(sequence)

    def overdue(self, limit: float) -> list[Sequence]:
        """Sequences that have waited more than `limit` seconds for their first step; 0: no limit.
        Preempted sequences have had it and are never overdue.
        """
        latest = time.monotonic() - limit
        return [
            sequence
            for sequence in (self.waiting if limit else ())
            if sequence.first_scheduled_time is None and sequence.arrival_time < latest
        ]

    def schedule(self) -> Schedule:
        schedule = Schedule()
        self._filling.clear()
        # Decodes first: a long prefill must not take their place in the token budget.
        self.running.sort(key=_num_uncomputed)
        for sequence in self.running.copy():
            if sequence.status is SequenceStatus.RUNNING:  # not preempted by an earlier one
                self._continue(sequence, schedule)
        # A preempted sequence returns before any new one, but not in the step that preempted it.
        if not schedule.num_preemptions:
            self._admit(schedule)
        return schedule

    def advance(self, schedule: Schedule) -> None:
        """Count a launched step's tokens as computed."""
        for sequence in schedule.sequences:
            sequence.num_computed_tokens += sequence.num_scheduled_tokens
            sequence.num_scheduled_tokens = 0
            self.tables.cache_computed(sequence)
            self.tables.drop_unreached(sequence)

    def finish(self, sequence: Sequence) -> list[int]:
        """Remove a sequence in any state. Returns the blocks that became free."""
        if sequence.status is SequenceStatus.WAITING:
            self.waiting.remove(sequence)
        elif sequence.status is SequenceStatus.RUNNING:
            self._leave(sequence)
            self.tables.cache_computed(sequence)  # its last token was pending until now
        sequence.status = SequenceStatus.FINISHED
        return self.tables.release(sequence)

    def check_integrity(self) -> None:
        assert all(s.status is SequenceStatus.RUNNING for s in self.running)
        assert all(s.status is SequenceStatus.WAITING for s in self.waiting)
        assert not any(s.block_table or s.num_computed_tokens for s in self.waiting)
        assert self.waiting == sorted(self.waiting, key=self._order)
        for sequence in self.running:
            assert 0 <= sequence.num_computed_tokens < sequence.num_tokens <= self.max_model_len
            held = len(sequence.block_table)
            assert held >= self.tables.num_blocks_for(sequence.num_computed_tokens)
            assert held <= self.tables.num_blocks_for(sequence.num_tokens)
        if self._adapters is not None:
            slots = [s.adapter_slot for s in self.running if s.adapter is not None]
            self._adapters.check_integrity(slots)
        self.tables.pool.check_integrity(s.held_blocks for s in self.running)

    def _continue(self, sequence: Sequence, schedule: Schedule) -> None:
        num_tokens = self._chunk_of(sequence, schedule)
        if self._max_prompt_tokens and _is_prompt(sequence) and self._next_has_room():
            # Half of the step is for prompts that wait, or a long one would hold them up.
            num_tokens = min(num_tokens, self._tokens_left(schedule, share=0.5))
        if num_tokens == 0 or self._ends_when_known(sequence):
            return
        end = sequence.num_computed_tokens + num_tokens
        while not self.tables.can_grow(sequence, end):
            victim = max(self.running, key=self._order)
            self._preempt(victim, schedule)
            if victim is sequence:
                return
        self._run(sequence, num_tokens, schedule)

    def _admit(self, schedule: Schedule) -> None:
        index = 0
        adapters = AdapterPass(self._adapters) if self._adapters is not None else None
        while index < len(self.waiting) and len(self.running) < self.max_num_seqs:
            sequence = self.waiting[index]
            if not self._tokens_left(schedule):
                return
            adapter = sequence.adapter
            if adapter is not None and adapters is not None and not adapters.may_run(adapter):
                index += 1
                continue
            prefix = self.tables.find_prefix(sequence)
            if self._is_being_filled(sequence, len(prefix)):
                index += 1
                continue
            if not self._has_room_for(sequence, prefix) or self._would_be_cut(
                sequence, len(prefix), schedule
            ):
                return  # a shorter prompt must not overtake, or a long one would starve
            del self.waiting[index]
            if adapter is not None and self._adapters is not None:
                sequence.adapter_slot = self._adapters.acquire(adapter)
            self.tables.share(sequence, prefix)
            sequence.status = SequenceStatus.RUNNING
            self.running.append(sequence)
            if sequence.first_scheduled_time is None:
                sequence.first_scheduled_time = time.monotonic()
                # The prefix cache may also hold tokens forced after the prompt; do not count them.
                sequence.num_cached_tokens = min(
                    sequence.num_computed_tokens, sequence.num_prompt_tokens
                )
                if self.tables.finds_prefix_of(sequence):
                    schedule.prefix_queries += sequence.num_prompt_tokens
                    schedule.prefix_hits += sequence.num_cached_tokens
            if num_tokens := self._chunk_of(sequence, schedule):
                self._run(sequence, num_tokens, schedule)

    def _has_room_for(self, sequence: Sequence, prefix: list[int]) -> bool:
        """True if all its tokens fit, and one more block for each running sequence, so that the
        admission causes no preemption in the next step.
        """
        pool = self.tables.pool
        missing = self.tables.num_blocks_for(sequence.num_tokens) - len(prefix)
        return missing + len(self.running) <= pool.num_free - pool.num_free_among(prefix)

    def _would_be_cut(self, sequence: Sequence, num_found: int, schedule: Schedule) -> bool:
        """True if `whole_prompts` holds it back. A step without another prompt takes any."""
        others = schedule.num_tokens - len(schedule.sequences)
        if not self._whole_prompts or not others:
            return False
        missing = sequence.num_tokens - num_found * self.tables.block_size
        return missing > self.max_num_batched_tokens - schedule.num_tokens

    def _is_being_filled(self, sequence: Sequence, num_found: int) -> bool:
        """True if the current step computes the block after its cached prefix."""
        if not self._filling or not self.tables.finds_prefix_of(sequence):
            return False
        if (num_found + 1) * self.tables.block_size > sequence.num_tokens - 2:
            return False  # `find_prefix` never returns this block
        return self.tables.hash_of(sequence, num_found) in self._filling

    def _chunk_of(self, sequence: Sequence, schedule: Schedule) -> int:
        left = self.max_num_batched_tokens - schedule.num_tokens
        if _is_prompt(sequence):
            left = self._tokens_left(schedule)
        return min(sequence.num_computable_tokens, left)

    def _tokens_left(self, schedule: Schedule, share: float = 1.0) -> int:
        """Prompt tokens that the step may still take, if its prompts have a share of all."""
        most = self.max_num_batched_tokens
        if self._max_prompt_tokens and schedule.num_decode_tokens:
            most = min(most, schedule.num_decode_tokens + int(self._max_prompt_tokens * share))
        return max(most - schedule.num_tokens, 0)

    def _next_has_room(self) -> bool:
        """True if the first in the queue would be admitted."""
        free = len(self.running) < self.max_num_seqs
        return bool(free and self.waiting and self._has_room_for(self.waiting[0], []))

    def _ends_when_known(self, sequence: Sequence) -> bool:
        """True if its pending token, whichever it is, reaches a length limit."""
        return bool(sequence.pending_rows) and (
            sequence.num_output_tokens + 1 >= sequence.params.max_tokens
            or sequence.num_tokens >= self.max_model_len
        )

    def _run(self, sequence: Sequence, num_tokens: int, schedule: Schedule) -> None:
        start, end = sequence.num_computed_tokens, sequence.num_computed_tokens + num_tokens
        self.tables.grow(sequence, end)
        schedule.add(sequence, num_tokens)
        if num_tokens > 1 and self.tables.prefix_caching:
            block_size = self.tables.block_size
            self._filling.update(
                self.tables.hash_of(sequence, index)
                for index in range(start // block_size, end // block_size)
            )

    def _preempt(self, sequence: Sequence, schedule: Schedule) -> None:
        """Release its blocks and queue it again. Its tokens are kept and recomputed later."""
        schedule.remove(sequence)
        schedule.num_preemptions += 1
        self._leave(sequence)
        self.tables.release(sequence)
        self._wait(sequence)

    def _wait(self, sequence: Sequence) -> None:
        sequence.status = SequenceStatus.WAITING
        insort(self.waiting, sequence, key=self._order)

    def _leave(self, sequence: Sequence) -> None:
        if sequence.adapter_slot >= 0 and self._adapters is not None:
            self._adapters.release(sequence.adapter_slot)
            sequence.adapter_slot = -1
        # The last sequence takes its place, so that all others keep their rows in the next batch.
        index = self.running.index(sequence)
        last = self.running.pop()
        if last is not sequence:
            self.running[index] = last


def _num_uncomputed(sequence: Sequence) -> int:
    return sequence.num_tokens - sequence.num_computed_tokens


def _is_prompt(sequence: Sequence) -> bool:
    """True if it computes more than a few tokens: a prompt, or one again after a preemption."""
    return sequence.num_computable_tokens > SHORT_QUERY
