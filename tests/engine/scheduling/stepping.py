"""A scheduler alone: a step computes what it was told to and samples the token 1."""

from __future__ import annotations

import itertools

from formgate.engine.sampling_params import SamplingParams
from formgate.engine.scheduling.block_pool import BlockPool
from formgate.engine.scheduling.block_tables import BlockTables
from formgate.engine.scheduling.scheduler import Schedule, Scheduler
from formgate.engine.sequence import Sequence

BLOCK_SIZE = 4
ARRIVALS = itertools.count()


def make_scheduler(
    *,
    num_blocks: int = 64,
    max_num_seqs: int = 8,
    max_num_batched_tokens: int = 32,
    max_model_len: int = 64,
    policy: str = "fcfs",
    prefix_caching: bool = False,
    whole_prompts: bool = False,
    max_prompt_tokens: int = 0,
    window: int = 0,
) -> Scheduler:
    tables = BlockTables(
        BlockPool(num_blocks), BLOCK_SIZE, prefix_caching=prefix_caching, window=window
    )
    return Scheduler(
        tables,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=max_model_len,
        policy=policy,
        whole_prompts=whole_prompts,
        max_prompt_tokens=max_prompt_tokens,
    )


def make_sequence(name: str, prompt: int | list[int], *, priority: int = 0) -> Sequence:
    token_ids = list(range(1000, 1000 + prompt)) if isinstance(prompt, int) else list(prompt)
    return Sequence(
        name,
        token_ids,
        len(token_ids),
        SamplingParams(),
        priority=priority,
        arrival_time=float(next(ARRIVALS)),
    )


def add(scheduler: Scheduler, name: str, prompt: int | list[int], **fields) -> Sequence:
    sequence = make_sequence(name, prompt, **fields)
    scheduler.add(sequence)
    return sequence


def work_of(schedule: Schedule) -> dict[str, int]:
    return {s.request_id: s.num_scheduled_tokens for s in schedule.sequences}


def step(scheduler: Scheduler) -> dict[str, int]:
    schedule = scheduler.schedule()
    work = work_of(schedule)
    assert sum(work.values()) == schedule.num_tokens <= scheduler.max_num_batched_tokens
    assert len(work) <= scheduler.max_num_seqs
    catching_up = [s for s in schedule.sequences if s.catches_up]
    for sequence in schedule.sequences:
        end = sequence.num_computed_tokens + sequence.num_scheduled_tokens
        assert len(sequence.block_table) * BLOCK_SIZE >= end
    scheduler.advance(schedule)
    for sequence in catching_up:
        sequence.token_ids.append(1)
    scheduler.check_integrity()
    return work
