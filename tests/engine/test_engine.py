"""The engine on a tiny Llama: whatever the schedule, each sequence gets the tokens that it would
get alone. `conftest.py` drives it and checks block ownership after every step.
"""

from __future__ import annotations

import random

import pytest

# The same tokens, whatever the schedule.


def test_greedy_tokens_are_those_of_transformers(make_engine, reference, prompts) -> None:
    driver = make_engine()
    for name, prompt in enumerate(prompts):
        driver.add(str(name), prompt, params={"max_tokens": 24})
    answers = driver.run()
    for name, prompt in enumerate(prompts):
        assert answers[str(name)].token_ids == reference(prompt, 24)
        assert answers[str(name)].finish_reason == "length"


SAMPLED = {"temperature": 1.2, "seed": 5, "max_tokens": 16}


@pytest.mark.parametrize("params", [{"max_tokens": 16}, SAMPLED], ids=["greedy", "sampled"])
def test_batched_is_alone(make_engine, params, prompts) -> None:
    alone = [make_engine().generate(prompt, params=params).token_ids for prompt in prompts]
    driver = make_engine()
    for name, prompt in enumerate(prompts):
        driver.add(str(name), prompt, params=params)
        driver.step()  # they join while others decode
    answers = driver.run()
    assert [answers[str(name)].token_ids for name in range(len(prompts))] == alone


@pytest.mark.parametrize("chunk", [1, 3, 4, 7, 39])
def test_chunked_is_whole(make_engine, chunk, prompts) -> None:
    whole = make_engine().generate(prompts[3]).token_ids
    driver = make_engine(max_num_batched_tokens=chunk, max_num_seqs=1)
    assert driver.generate(prompts[3]).token_ids == whole
    assert max(stats.num_batched_tokens for stats in driver.stats) == chunk


def test_a_chunk_beside_decodes_changes_nothing(make_engine, prompts) -> None:
    alone = [make_engine().generate(prompt).token_ids for prompt in prompts]
    driver = make_engine(max_num_batched_tokens=9, max_num_seqs=5)
    for name, prompt in enumerate(prompts):
        driver.add(str(name), prompt)
    answers = driver.run()
    assert [answers[str(name)].token_ids for name in range(len(prompts))] == alone


def test_prefix_hit_is_miss(make_engine, prompts) -> None:
    driver = make_engine()
    miss = driver.generate(prompts[3])
    hit = driver.generate(prompts[3])
    longer = driver.generate(prompts[3] + miss.token_ids + [9])
    assert hit.token_ids == miss.token_ids
    assert miss.outputs[0].num_cached_tokens == 0
    assert hit.outputs[0].num_cached_tokens == 36
    # The answer's blocks are found too; its last token was never computed.
    assert longer.outputs[0].num_cached_tokens == 44
    fresh = make_engine(enable_prefix_caching=False)
    assert fresh.generate(prompts[3] + miss.token_ids + [9]).token_ids == longer.token_ids
    assert sum(stats.prefix_cache_hits for stats in driver.stats) == 80
    assert sum(stats.prefix_cache_queries for stats in driver.stats) == 40 + 40 + 49


def test_another_salt_is_a_miss(make_engine, prompts) -> None:
    driver = make_engine()
    driver.generate(prompts[3], cache_salt="a")
    assert driver.generate(prompts[3], cache_salt="b").outputs[0].num_cached_tokens == 0
    assert driver.generate(prompts[3], cache_salt="b").outputs[0].num_cached_tokens == 36


def test_requests_of_one_prompt_share_it(make_engine, prompts) -> None:
    driver = make_engine()
    for name in range(4):
        driver.add(str(name), prompts[3], params={"seed": name, "temperature": 1.0})
    answers = driver.run()
    cached = [answers[str(name)].outputs[0].num_cached_tokens for name in range(4)]
    assert cached == [0, 36, 36, 36]
    assert len({tuple(answers[str(name)].token_ids) for name in range(4)}) > 1
    computed = sum(stats.num_batched_tokens for stats in driver.stats)
    assert computed == 40 + 3 * 4 + 4 * 7


@pytest.mark.parametrize("params", [{"max_tokens": 30}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("prefix_caching", [True, False])
def test_preempted_is_not(make_engine, params, prefix_caching, prompt_of) -> None:
    prompts = [prompt_of(20, seed) for seed in range(5)]
    alone = [make_engine().generate(prompt, params=params).token_ids for prompt in prompts]
    driver = make_engine(
        kv_blocks=26,  # about two of them at their full length
        max_model_len=60,
        enable_prefix_caching=prefix_caching,
    )
    for name, prompt in enumerate(prompts):
        driver.add(str(name), prompt, params=params)
    answers = driver.run()
    assert sum(stats.num_preemptions for stats in driver.stats) > 0
    assert [answers[str(name)].token_ids for name in range(5)] == alone
    assert all(answers[str(name)].outputs[0].num_cached_tokens == 0 for name in range(5))


def test_a_seed_gives_the_same_tokens_in_any_company(make_engine, prompts) -> None:
    driver = make_engine()
    first = driver.generate(prompts[0], params=SAMPLED).token_ids
    other = driver.generate(prompts[0], params=SAMPLED | {"seed": 6}).token_ids
    assert first != other
    driver.add("company", prompts[2], params={"temperature": 1.0, "max_tokens": 30})
    driver.step()
    assert driver.generate(prompts[0], params=SAMPLED).token_ids == first


# Priorities.


def test_priority_policy_runs_the_urgent_first(make_engine, prompts) -> None:
    driver = make_engine(max_num_seqs=1, scheduling_policy="priority")
    for name, priority in (("late", 2), ("soon", 1), ("now", 0)):
        driver.add(name, prompts[0], priority=priority)
    order: list[str] = []
    while driver.engine.has_work:
        order += [o.request_id for o in driver.step() if o.finish_reason is not None]
    assert order == ["now", "soon", "late"]


# Everything at once.


@pytest.mark.parametrize("seed", range(6))
def test_random_traffic(make_engine, requests_of, seed: int) -> None:
    rng = random.Random(seed)
    driver = make_engine(
        kv_blocks=rng.choice([24, 40]),
        max_model_len=80,
        max_num_seqs=rng.randint(2, 6),
        max_num_batched_tokens=rng.randint(6, 48),
        scheduling_policy=rng.choice(["fcfs", "priority"]),
        forced_tokens=rng.random() < 0.5,
    )
    requests = requests_of(seed, 24)
    added: list[str] = []
    aborted: set[str] = set()
    for name, request in requests.items():
        added.append(name)
        driver.add(name, **request, priority=rng.randrange(3))
        for _ in range(rng.randint(0, 4)):
            driver.step()
        if rng.random() < 0.25:
            gone = rng.choice(added)
            driver.engine.abort([gone])
            if driver.answers[gone].outputs == [] or driver.answers[gone].finish_reason is None:
                aborted.add(gone)
    answers = driver.run()
    alone = make_engine(enable_prefix_caching=False)
    for name, request in requests.items():
        expected = alone.generate(**request)
        if name in aborted:
            assert answers[name].finish_reason == "abort"
            assert answers[name].token_ids == expected.token_ids[: len(answers[name].token_ids)]
        else:
            assert answers[name].token_ids == expected.token_ids
            assert answers[name].finish_reason == expected.finish_reason
            assert answers[name].outputs[0].prompt_logprobs is None or len(
                answers[name].outputs[0].prompt_logprobs
            ) == len(request["prompt"])
    assert driver.engine.pool.num_used == 0
    driver.engine.check_integrity()


def test_a_request_that_waits_too_long_is_given_up(make_engine, prompts) -> None:
    driver = make_engine(max_num_seqs=1, max_queue_seconds=30.0)
    driver.add("running", prompts[0], params={"max_tokens": 8})
    driver.add("young", prompts[1], params={"max_tokens": 8})
    driver.add("old", prompts[1], params={"max_tokens": 8})
    driver.step()
    for name in ("running", "old"):  # the first has run and is not waiting
        driver.engine._sequences[name].arrival_time -= 31.0
    answers = driver.run()
    assert answers["old"].finish_reason == "error"
    assert answers["old"].outputs[-1].fault == "queue"
    assert answers["running"].finish_reason == answers["young"].finish_reason == "length"
