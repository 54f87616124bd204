"""Steps that overlap, and batches that are padded to static shapes, answer what plain steps answer:
on a CPU the same code runs as on CUDA, only that nothing is captured.
"""

from __future__ import annotations

import random

import pytest

from formgate.engine.execution.batch_builder import BatchShape
from formgate.engine.execution.graphs import StaticShapes, decode_batches, static_shapes

VARIANTS = {
    "overlap": {"async_scheduling": True},
    "static": {"max_cudagraph_capture_size": 16},
    "both": {"async_scheduling": True, "max_cudagraph_capture_size": 16},
    "both, few static": {
        "async_scheduling": True,
        "max_cudagraph_capture_size": 3,
    },
}
variants = pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS.keys())


@variants
@pytest.mark.parametrize("seed", range(3))
def test_random_traffic_is_answered_as_by_plain_steps(
    make_engine, requests_of, fields, seed: int
) -> None:
    rng = random.Random(seed)
    driver = make_engine(
        kv_blocks=21,
        max_model_len=80,
        max_num_seqs=rng.randint(4, 8),
        max_num_batched_tokens=rng.randint(6, 48),
        scheduling_policy=rng.choice(["fcfs", "priority"]),
        **fields,
    )
    requests = requests_of(seed, 24)
    aborted: set[str] = set()
    for name, request in requests.items():
        driver.add(name, **request, priority=rng.randrange(3))
        for _ in range(rng.randint(0, 2)):
            driver.step()
        if rng.random() < 0.2:
            gone = rng.choice(list(driver.engine._sequences) or [name])
            if gone in driver.engine._sequences:
                driver.engine.abort([gone])
                aborted.add(gone)
    answers = driver.run()
    alone = make_engine(enable_prefix_caching=False)
    for name, request in requests.items():
        expected, found = alone.generate(**request), answers[name]
        if name in aborted:
            assert found.finish_reason == "abort"
            assert found.token_ids == expected.token_ids[: len(found.token_ids)]
            continue
        assert found.token_ids == expected.token_ids
        assert found.finish_reason == expected.finish_reason
        assert found.last.stop_token_id == expected.last.stop_token_id
        assert_same_logprobs(found, expected)
    assert driver.engine.pool.num_used == 0


@variants
def test_preempted_is_not(make_engine, fields, prompt_of) -> None:
    prompts = [prompt_of(20, seed) for seed in range(5)]
    params = {"max_tokens": 30, "temperature": 1.2, "seed": 5, "prompt_logprobs": 0}
    alone = [make_engine().generate(prompt, params=params) for prompt in prompts]
    driver = make_engine(kv_blocks=26, max_model_len=60, **fields)
    for name, prompt in enumerate(prompts):
        driver.add(str(name), prompt, params=params)
    answers = driver.run()
    assert sum(stats.num_preemptions for stats in driver.stats) > 0
    for name, expected in enumerate(alone):
        assert answers[str(name)].token_ids == expected.token_ids
        assert_same_logprobs(answers[str(name)], expected)


def assert_same_logprobs(found, expected) -> None:
    def flat(collected):
        return [p for output in collected.outputs for p in output.logprobs or ()]

    for ours, theirs in zip(flat(found), flat(expected), strict=True):
        assert ours.chosen.token_id == theirs.chosen.token_id
        assert ours.chosen.logprob == pytest.approx(theirs.chosen.logprob, abs=1e-4)
    ours, theirs = found.outputs[0].prompt_logprobs, expected.outputs[0].prompt_logprobs
    assert (ours is None) == (theirs is None)
    if ours is not None:
        assert len(ours) == len(theirs)
        assert [p and p.chosen.token_id for p in ours] == [p and p.chosen.token_id for p in theirs]


@variants
def test_a_step_is_launched_before_the_last_one_is_read(make_engine, fields, prompt_of) -> None:
    driver = make_engine(**fields)
    driver.add("a", prompt_of(5), params={"max_tokens": 6})
    steps = [len(driver.step()) for _ in range(6)]
    if driver.engine._overlap:
        assert steps == [0, 1, 1, 1, 1, 1]
        driver.step()
        # Its length was known beforehand: no row was computed for nothing.
        computed = sum(stats.num_batched_tokens for stats in driver.stats)
        assert computed == 5 + 5
    else:
        assert steps == [1] * 6
    assert len(driver.answers["a"].token_ids) == 6
    assert not driver.engine.has_work


def test_what_a_stop_comes_too_late_for_is_thrown_away(make_engine, prompt_of) -> None:
    free = make_engine().generate(prompt_of(5), params={"max_tokens": 8}).token_ids
    stop = free[3]
    driver = make_engine(async_scheduling=True)
    driver.add("a", prompt_of(5), params={"max_tokens": 8, "stop_token_ids": (stop,)})
    driver.add("b", prompt_of(9), params={"max_tokens": 20})
    answers = driver.run()
    assert answers["a"].token_ids == free[: free.index(stop) + 1]
    assert answers["a"].finish_reason == "stop"
    assert (
        answers["b"].token_ids
        == make_engine().generate(prompt_of(9), params={"max_tokens": 20}).token_ids
    )
    # What was computed of the answer can be found, and is what it should be.
    longer = prompt_of(5) + answers["a"].token_ids + [9, 8, 7]
    hit = driver.generate(longer)
    assert hit.outputs[0].num_cached_tokens == (5 + len(answers["a"].token_ids)) // 4 * 4
    assert hit.token_ids == make_engine(enable_prefix_caching=False).generate(longer).token_ids


@variants
def test_nan_ends_its_own_request_and_leaves_nothing_behind(
    make_engine, fields, caplog, prompt_of
) -> None:
    clean = {
        length: make_engine().generate(prompt_of(length), params={"max_tokens": 12}).token_ids
        for length in (5, 9, 20)
    }
    driver = make_engine(**fields)
    used = {token for length in clean for token in prompt_of(length) + clean[length]} | {0}
    poison = min(set(range(3, 131)) - used)
    driver.engine.runner.model.model.embed_tokens.weight.data[poison] = float("nan")
    driver.add("bad", [poison, *prompt_of(30)])
    for length in clean:
        driver.add(str(length), prompt_of(length), params={"max_tokens": 12})
    answers = driver.run()
    assert answers["bad"].finish_reason == "error"
    assert "no token can be chosen for bad" in caplog.text
    for length, expected in clean.items():
        assert answers[str(length)].token_ids == expected
    for keys, values in driver.engine.runner.kv_caches:
        assert keys.isfinite().all()
        assert values.isfinite().all()


def test_steps_have_static_shapes(make_engine, prompt_of) -> None:
    driver = make_engine(max_cudagraph_capture_size=16)
    runs: list[BatchShape] = []
    static = driver.engine.runner._static
    run = static.run
    static.run = lambda shape: (runs.append(shape), run(shape))
    for name in range(11):
        driver.add(str(name), prompt_of(3 + name), params={"max_tokens": 4})
    driver.run()
    # 11 short prompts of 88 tokens in all, then decoding: 11 rows in a shape of 16.
    assert runs == [BatchShape(128, 16, 128)] + [BatchShape(16, 16, 1)] * 3


def test_shapes_are_few_and_cover_every_batch() -> None:
    assert decode_batches(20) == [1, 2, 4, 8, 16, 20]
    assert decode_batches(1) == [1]
    assert decode_batches(0) == []
    assert static_shapes(0) == []
    shapes = static_shapes(256)
    assert len(shapes) < 48
    for rows in range(1, 257):
        shape = next(s for s in shapes if s.holds(rows, rows, 1))
        assert shape.max_query_len == 1
        assert shape.num_rows - rows < 8
    assert next(s for s in shapes if s.holds(6, 2, 5)) == BatchShape(32, 2, 16)
    assert next(s for s in shapes if s.holds(90, 80, 5)) == BatchShape(128, 128, 128)


def test_without_graphs_a_shape_is_computed_anew() -> None:
    done: list[BatchShape] = []
    shape = BatchShape(2, 2, 1)
    StaticShapes([shape], done.append).run(shape)
    assert done == [shape]
