"""How many prompt tokens a step takes beside others."""

from __future__ import annotations

import random

from tests.engine.scheduling.stepping import add, make_scheduler, step, work_of


def test_whole_prompts_are_not_cut_for_another_one() -> None:
    scheduler = make_scheduler(whole_prompts=True, max_num_batched_tokens=32, max_num_seqs=4)
    running = add(scheduler, "decode", 3)
    scheduler.advance(scheduler.schedule())
    running.token_ids.append(1)
    for name, prompt in (("a", 20), ("b", 15), ("c", 50), ("d", 4)):
        add(scheduler, name, prompt)
    seen = []
    for _ in range(4):
        schedule = scheduler.schedule()
        seen.append({k: v for k, v in work_of(schedule).items() if k != "decode"})
        scheduler.advance(schedule)
        for sequence in scheduler.running:
            if sequence.num_computed_tokens == sequence.num_tokens:
                sequence.token_ids.append(1)
    # `b` waits for a step without `a`; `c`, which fits no step, is cut; `d` does not overtake it.
    assert seen[0] == {"a": 20}
    assert seen[1] == {"a": 1, "b": 15}
    assert seen[2]["c"] == 32 - 3
    assert "d" not in seen[2]
    assert seen[3]["c"] == 50 - 29


LIMITED = {"max_num_batched_tokens": 200, "max_model_len": 400, "num_blocks": 400}


def test_prompts_are_short_while_others_decode() -> None:
    scheduler = make_scheduler(max_prompt_tokens=40, **LIMITED)
    decoding = add(scheduler, "decode", 3)
    step(scheduler)
    add(scheduler, "long", 100)
    assert step(scheduler) == {"decode": 1, "long": 40}
    assert step(scheduler) == {"decode": 1, "long": 40}
    scheduler.finish(decoding)
    add(scheduler, "next", 150)
    assert step(scheduler) == {"long": 20, "next": 150}  # nobody waits for a token


def test_a_long_prompt_leaves_half_of_the_step_to_those_that_wait() -> None:
    scheduler = make_scheduler(max_prompt_tokens=40, **LIMITED)
    add(scheduler, "decode", 3)
    step(scheduler)
    add(scheduler, "long", 300)
    assert step(scheduler) == {"decode": 1, "long": 40}
    add(scheduler, "short", 17)
    add(scheduler, "other", 30)
    assert step(scheduler) == {"decode": 1, "long": 20, "short": 17, "other": 3}
    # What is shorter comes first.
    assert step(scheduler) == {"decode": 1, "short": 1, "other": 27, "long": 13}


def test_forced_tokens_are_no_prompt() -> None:
    scheduler = make_scheduler(max_prompt_tokens=20, **LIMITED)
    sequence = add(scheduler, "forced", 3)
    step(scheduler)
    sequence.token_ids += [5] * 10
    add(scheduler, "long", 100)
    assert step(scheduler) == {"forced": 11, "long": 20}


def test_limits_of_a_step_change_no_order_and_lose_nobody() -> None:
    """Random loads end, whatever the limit."""
    for limit in (0, 17, 40):
        rng = random.Random(limit)
        scheduler = make_scheduler(max_prompt_tokens=limit, **LIMITED | {"num_blocks": 130})
        left = {add(scheduler, str(i), rng.randint(1, 300)): rng.randint(1, 9) for i in range(20)}
        for _ in range(2000):
            schedule = scheduler.schedule()
            catching_up = [s for s in schedule.sequences if s.catches_up]
            prompts = schedule.num_tokens - schedule.num_decode_tokens
            assert not (limit and schedule.num_decode_tokens) or prompts <= limit
            scheduler.advance(schedule)
            for sequence in catching_up:
                sequence.token_ids.append(1)
                left[sequence] -= 1
                if not left[sequence]:
                    scheduler.finish(sequence)
                    del left[sequence]
            scheduler.check_integrity()
            if not left:
                break
        assert not left
