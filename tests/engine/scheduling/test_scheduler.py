"""The scheduler alone: a step computes what it was told to and samples the token 1."""

from __future__ import annotations

import random

import pytest

from formgate.engine.sequence import Sequence, SequenceStatus
from tests.engine.scheduling.stepping import (
    add,
    make_scheduler,
    step,
    work_of,
)


def test_prompts_then_one_token_each() -> None:
    scheduler = make_scheduler()
    add(scheduler, "a", 5)
    add(scheduler, "b", 9)
    assert step(scheduler) == {"a": 5, "b": 9}
    assert step(scheduler) == {"a": 1, "b": 1}
    assert step(scheduler) == {"a": 1, "b": 1}


def test_a_long_prompt_comes_in_chunks() -> None:
    scheduler = make_scheduler(max_num_batched_tokens=16)
    add(scheduler, "a", 40)
    assert [step(scheduler) for _ in range(4)] == [{"a": 16}, {"a": 16}, {"a": 8}, {"a": 1}]


def test_decodes_come_before_a_chunk() -> None:
    scheduler = make_scheduler(max_num_batched_tokens=16)
    add(scheduler, "a", 5)
    step(scheduler)
    add(scheduler, "long", 40)
    add(scheduler, "late", 3)
    assert step(scheduler) == {"a": 1, "long": 15}
    assert step(scheduler) == {"a": 1, "long": 15}
    assert step(scheduler) == {"a": 1, "long": 10, "late": 3}
    assert step(scheduler) == {"a": 1, "long": 1, "late": 1}


def test_forced_tokens_are_only_more_to_compute() -> None:
    scheduler = make_scheduler()
    sequence = add(scheduler, "a", 5)
    step(scheduler)
    sequence.token_ids += [7, 7, 7]
    assert step(scheduler) == {"a": 4}
    assert step(scheduler) == {"a": 1}


def test_max_num_seqs() -> None:
    scheduler = make_scheduler(max_num_seqs=2)
    sequences = [add(scheduler, name, 3) for name in "abc"]
    assert step(scheduler) == {"a": 3, "b": 3}
    scheduler.finish(sequences[0])
    assert step(scheduler) == {"b": 1, "c": 3}


def test_a_prompt_that_can_never_fit_is_refused() -> None:
    scheduler = make_scheduler(num_blocks=4, max_model_len=16)
    with pytest.raises(ValueError, match="16 tokens"):
        add(scheduler, "a", 16)
    assert not scheduler.has_work
    add(scheduler, "b", 15)
    assert step(scheduler) == {"b": 15}


def test_nothing_is_admitted_without_room_for_all_of_it() -> None:
    scheduler = make_scheduler(num_blocks=8, max_model_len=32)
    first = add(scheduler, "a", 14)
    add(scheduler, "b", 20)
    add(scheduler, "c", 1)  # would fit, but must not overtake
    assert step(scheduler) == {"a": 14}
    assert step(scheduler) == {"a": 1}
    scheduler.finish(first)
    assert step(scheduler) == {"b": 20, "c": 1}


def test_the_latest_gives_way_and_comes_back() -> None:
    scheduler = make_scheduler(num_blocks=8, max_model_len=32)
    first = add(scheduler, "a", 12)
    second = add(scheduler, "b", 11)
    assert step(scheduler) == {"a": 12, "b": 11}
    while second.status is SequenceStatus.RUNNING:
        work = step(scheduler)
    assert work == {"a": 1}
    assert second.num_computed_tokens == 0
    assert second.block_table == []
    assert second.num_tokens > 11  # what it generated stays
    scheduler.check_integrity()
    scheduler.finish(first)
    assert step(scheduler) == {"b": second.num_tokens - 1}


def test_the_lowest_priority_gives_way_even_if_it_came_first() -> None:
    scheduler = make_scheduler(num_blocks=8, max_model_len=32, policy="priority")
    low = add(scheduler, "low", 12, priority=5)
    high = add(scheduler, "high", 12, priority=1)
    assert step(scheduler) == {"high": 12, "low": 12}
    for _ in range(20):
        step(scheduler)
        if low.status is SequenceStatus.WAITING:
            break
    assert low.status is SequenceStatus.WAITING
    assert high.status is SequenceStatus.RUNNING
    scheduler.check_integrity()


def test_a_victim_that_was_scheduled_gives_its_budget_back() -> None:
    """The sequence "low" is earlier in the batch than the one that needs its blocks."""
    scheduler = make_scheduler(num_blocks=4, max_model_len=16, policy="priority")
    low = add(scheduler, "low", 4, priority=5)
    high = add(scheduler, "high", 4, priority=1)
    step(scheduler)
    scheduler.running.sort(key=lambda s: s.request_id, reverse=True)
    assert [s.request_id for s in scheduler.running] == ["low", "high"]
    while low.status is SequenceStatus.RUNNING:
        schedule = scheduler.schedule()
        work = work_of(schedule)
        assert schedule.num_tokens == sum(work.values())
        scheduler.advance(schedule)
        for sequence in schedule.sequences:
            sequence.token_ids.append(1)
        scheduler.check_integrity()
    assert work == {"high": 1}
    assert high.status is SequenceStatus.RUNNING


def test_priority_orders_the_queue_and_fcfs_does_not() -> None:
    for policy, expected in (("fcfs", ["a", "b", "c"]), ("priority", ["c", "b", "a"])):
        scheduler = make_scheduler(max_num_seqs=1, policy=policy)
        for priority, name in zip((3, 2, 1), "abc", strict=True):
            add(scheduler, name, 3, priority=priority)
        order = []
        while scheduler.has_work:
            [name] = step(scheduler)
            order.append(name)
            scheduler.finish(scheduler.running[0])
        assert order == expected


def test_equal_priorities_go_by_arrival() -> None:
    scheduler = make_scheduler(max_num_seqs=1, policy="priority")
    for name in "abc":
        add(scheduler, name, 3, priority=4)
    assert [s.request_id for s in scheduler.waiting] == ["a", "b", "c"]


@pytest.mark.parametrize("steps_before", [0, 1, 2])
def test_finish_frees_at_once(steps_before: int) -> None:
    scheduler = make_scheduler(max_num_batched_tokens=8)
    sequence = add(scheduler, "a", 12)
    for _ in range(steps_before):
        step(scheduler)
    scheduler.finish(sequence)
    assert scheduler.tables.pool.num_used == 0
    assert not scheduler.has_work
    scheduler.check_integrity()


def test_others_keep_their_rows_when_one_leaves() -> None:
    scheduler = make_scheduler()
    sequences = [add(scheduler, name, 3) for name in "abcd"]
    step(scheduler)
    scheduler.finish(sequences[1])
    assert [s.request_id for s in scheduler.running] == ["a", "d", "c"]


def test_equal_prompts_at_once_are_computed_once() -> None:
    scheduler = make_scheduler(prefix_caching=True)
    for name in "abc":
        add(scheduler, name, 14)
    assert step(scheduler) == {"a": 14}
    assert step(scheduler) == {"a": 1, "b": 2, "c": 2}
    assert scheduler.tables.pool.num_used == 3 + 3


def test_a_prompt_in_chunks_is_waited_for_by_its_equal() -> None:
    scheduler = make_scheduler(prefix_caching=True, max_num_batched_tokens=12)
    add(scheduler, "a", 30)
    other = add(scheduler, "b", 30)
    assert [step(scheduler) for _ in range(3)] == [{"a": 12}, {"a": 12}, {"a": 6}]
    assert step(scheduler) == {"a": 1, "b": 2}
    assert other.num_cached_tokens == 28


def test_another_prompt_does_not_wait_for_equals() -> None:
    scheduler = make_scheduler(prefix_caching=True)
    add(scheduler, "a", 14)
    add(scheduler, "b", 14)
    add(scheduler, "c", [5, 6, 7])
    assert step(scheduler) == {"a": 14, "c": 3}


def test_prefix_statistics_count_the_first_admission() -> None:
    scheduler = make_scheduler(prefix_caching=True)
    first = add(scheduler, "a", 14)
    schedule = scheduler.schedule()
    assert (schedule.prefix_queries, schedule.prefix_hits) == (14, 0)
    scheduler.advance(schedule)
    scheduler.finish(first)
    add(scheduler, "b", 14)
    schedule = scheduler.schedule()
    assert (schedule.prefix_queries, schedule.prefix_hits) == (14, 12)
    assert schedule.sequences[0].num_cached_tokens == 12


def test_a_preempted_sequence_finds_its_own_blocks() -> None:
    scheduler = make_scheduler(num_blocks=8, max_model_len=32, prefix_caching=True)
    first = add(scheduler, "a", [1] * 12)
    second = add(scheduler, "b", [2] * 11)
    while second.status is not SequenceStatus.RUNNING:
        step(scheduler)
    while second.status is SequenceStatus.RUNNING:
        step(scheduler)
    scheduler.finish(first)
    work = step(scheduler)
    assert work["b"] < second.num_tokens - 1
    assert second.num_cached_tokens == 0  # a hit of its own past is no hit of the prompt


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
@pytest.mark.parametrize("prefix_caching", [False, True])
@pytest.mark.parametrize("window", [0, 1, 9])
@pytest.mark.parametrize("seed", range(8))
def test_random_traffic_always_ends(
    seed: int, window: int, prefix_caching: bool, policy: str
) -> None:
    rng = random.Random(seed)
    scheduler = make_scheduler(
        num_blocks=10,
        max_model_len=40,
        max_num_seqs=rng.randint(1, 6),
        max_num_batched_tokens=rng.randint(6, 24),
        policy=policy,
        prefix_caching=prefix_caching,
        window=window,
    )
    alive: dict[Sequence, int] = {}
    num_added = 0
    for _ in range(2000):
        if num_added < 40 and rng.random() < 0.3:
            prompt = [rng.randrange(2) for _ in range(rng.randint(1, 30))]
            sequence = add(scheduler, str(num_added), prompt, priority=rng.randrange(3))
            alive[sequence] = min(len(prompt) + rng.randint(1, 20), 40)
            num_added += 1
        if alive and rng.random() < 0.05:
            sequence = rng.choice(list(alive))
            scheduler.finish(sequence)
            del alive[sequence]
        work = step(scheduler)
        assert work or not alive
        for sequence in [s for s, end in alive.items() if s.num_tokens >= end]:
            scheduler.finish(sequence)
            del alive[sequence]
        scheduler.check_integrity()
        if num_added == 40 and not alive:
            break
    assert not alive
    assert not scheduler.has_work
    assert scheduler.tables.pool.num_used == 0
