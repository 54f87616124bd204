"""How an answer ends: by its length, a stop token, an abort, or an error that no other request
notices."""

from __future__ import annotations

import threading

import pytest
import torch

# Ends.


def test_max_model_len_ends_with_length(make_engine, prompts) -> None:
    driver = make_engine(max_model_len=30)
    answer = driver.generate(prompts[2], params={"max_tokens": 100})
    assert len(answer.token_ids) == 7
    assert answer.finish_reason == "length"


def test_stop_ids_and_eos(make_engine, prompts) -> None:
    free = make_engine().generate(prompts[0], params={"max_tokens": 8}).token_ids
    stop = free[3]
    expected = free[: free.index(stop) + 1]
    driver = make_engine()
    answer = driver.generate(prompts[0], params={"stop_token_ids": (stop,)})
    assert answer.token_ids == expected
    assert (answer.finish_reason, answer.last.stop_token_id) == ("stop", stop)
    driver.engine.rules = type(driver.engine.rules)(frozenset({stop}), 128)
    answer = driver.generate(prompts[0], params={"ignore_eos": False})
    assert answer.token_ids == expected
    assert (answer.finish_reason, answer.last.stop_token_id) == ("stop", stop)
    answer = driver.generate(prompts[0], params={"ignore_eos": True})
    assert answer.token_ids == free
    assert (answer.finish_reason, answer.last.stop_token_id) == ("length", None)


def test_eos_ids_come_from_both_configs(make_engine, llama_dir) -> None:
    assert make_engine().engine.runner.eos_token_ids == {2}
    config = llama_dir / "generation_config.json"
    before = config.read_text()
    try:
        config.write_text('{"eos_token_id": [7, 9]}')
        assert make_engine().engine.runner.eos_token_ids == {2, 7, 9}
        config.write_text("not json")
        assert make_engine().engine.runner.eos_token_ids == {2}
    finally:
        config.write_text(before)


def test_no_tokens_wanted(make_engine, prompts) -> None:
    answer = make_engine().generate(prompts[0], params={"max_tokens": 0, "prompt_logprobs": 1})
    assert answer.token_ids == []
    assert answer.finish_reason == "length"
    assert answer.last.prompt_logprobs is not None
    assert len(answer.last.prompt_logprobs) == 5


# Abort.


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_abort_frees_before_the_next_step(make_engine, steps, prompts) -> None:
    driver = make_engine(max_num_batched_tokens=16)
    driver.add("gone", prompts[3], params={"max_tokens": 50})
    driver.add("stays", prompts[0])
    for _ in range(steps):
        driver.step()
    driver.engine.abort(["gone", "never heard of"])
    driver.engine.check_integrity()
    assert "gone" not in {s.request_id for s in driver.engine.scheduler.running}
    answers = driver.run()
    assert answers["gone"].finish_reason == "abort"
    assert answers["stays"].token_ids == make_engine().generate(prompts[0]).token_ids
    assert driver.engine.pool.num_used == 0
    assert (driver.stats[-1].num_running, driver.stats[-1].kv_cache_usage) == (0, 0.0)


def test_abort_while_the_constraint_is_built(make_engine, prompts) -> None:
    started, may_end = threading.Event(), threading.Event()

    def slow(text: str):
        started.set()
        may_end.wait(10)
        raise AssertionError("nobody waits for this")

    driver = make_engine(factory=slow)
    driver.add("gone", prompts[0], constraint="x")
    assert started.wait(10)
    driver.add("stays", prompts[0])
    driver.engine.abort(["gone"])
    assert len(driver.run()["stays"].token_ids) == 8
    may_end.set()
    driver.generate(prompts[0])
    assert [output.finish_reason for output in driver.answers["gone"].outputs] == ["abort"]


# Errors stay with their request.


def test_nan_ends_its_own_request_and_leaves_nothing_behind(
    make_engine, caplog, prompts, prompt_of
) -> None:
    driver = make_engine(kv_blocks=40, max_model_len=80)
    clean = {
        name: make_engine().generate(prompts[name], params={"max_tokens": 12}).token_ids
        for name in (0, 2, 4)
    }
    used = {token for name in clean for token in prompts[name] + clean[name]}
    poison = min(set(range(3, 131)) - used)
    with torch.no_grad():
        driver.engine.runner.model.model.embed_tokens.weight[poison] = float("nan")
    bad = [poison, *prompt_of(30)]
    driver.add("bad", bad)
    for name in clean:
        driver.add(str(name), prompts[name], params={"max_tokens": 12})
    answers = driver.run()
    assert answers["bad"].finish_reason == "error"
    assert answers["bad"].token_ids == []
    assert "no token can be chosen for bad" in caplog.text
    for name, expected in clean.items():
        assert answers[str(name)].token_ids == expected
    for keys, values in driver.engine.runner.kv_caches:
        assert keys.isfinite().all()
        assert values.isfinite().all()
    # Its blocks are not found, so what is now a good model answers well.
    driver.add("again", bad)
    driver.step()
    assert driver.stats[-1].prefix_cache_hits == 0


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "empty"), ([5] * 128, "128 tokens"), ([5, 131], "vocabulary"), ([-1], "vocabulary")],
)
def test_a_prompt_that_cannot_be_served_is_an_error(make_engine, prompt, message, prompts) -> None:
    driver = make_engine()
    driver.add("bad", prompt)
    driver.add("good", prompts[0])
    answers = driver.run()
    assert answers["bad"].finish_reason == "error"
    assert message in answers["bad"].last.error
    assert len(answers["good"].token_ids) == 8
