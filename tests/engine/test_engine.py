"""The engine on a tiny Llama: whatever the schedule, each sequence gets the tokens that it would
get alone. `conftest.py` drives it and checks block ownership after every step.
"""

from __future__ import annotations

import random
import threading

import pytest
import torch
from transformers import LlamaForCausalLM

from formgate.engine.errors import EngineStartError

PROMPTS = [
    [random.Random(length).randrange(3, 131) for _ in range(length)] for length in (5, 1, 23, 40, 8)
]

BYTES_PER_BLOCK = 2 * 2 * 4 * 2 * 8 * 4  # two of layers * block_size * kv_heads * head_dim * 4


def prompt_of(length: int, seed: int = 0) -> list[int]:
    rng = random.Random(1000 * length + seed)
    return [rng.randrange(3, 131) for _ in range(length)]


# The same tokens, whatever the schedule.


def test_greedy_tokens_are_those_of_transformers(make_engine, reference) -> None:
    driver = make_engine()
    for name, prompt in enumerate(PROMPTS):
        driver.add(str(name), prompt, params={"max_tokens": 24})
    answers = driver.run()
    for name, prompt in enumerate(PROMPTS):
        assert answers[str(name)].token_ids == reference(prompt, 24)
        assert answers[str(name)].finish_reason == "length"


SAMPLED = {"temperature": 1.2, "seed": 5, "max_tokens": 16}


@pytest.mark.parametrize("params", [{"max_tokens": 16}, SAMPLED], ids=["greedy", "sampled"])
def test_batched_is_alone(make_engine, params) -> None:
    alone = [make_engine().generate(prompt, params=params).token_ids for prompt in PROMPTS]
    driver = make_engine()
    for name, prompt in enumerate(PROMPTS):
        driver.add(str(name), prompt, params=params)
        driver.step()  # they join while others decode
    answers = driver.run()
    assert [answers[str(name)].token_ids for name in range(len(PROMPTS))] == alone


@pytest.mark.parametrize("chunk", [1, 3, 4, 7, 39])
def test_chunked_is_whole(make_engine, chunk) -> None:
    whole = make_engine().generate(PROMPTS[3]).token_ids
    driver = make_engine(max_num_batched_tokens=chunk, max_num_seqs=1)
    assert driver.generate(PROMPTS[3]).token_ids == whole
    assert max(stats.num_batched_tokens for stats in driver.stats) == chunk


def test_a_chunk_beside_decodes_changes_nothing(make_engine) -> None:
    alone = [make_engine().generate(prompt).token_ids for prompt in PROMPTS]
    driver = make_engine(max_num_batched_tokens=9, max_num_seqs=5)
    for name, prompt in enumerate(PROMPTS):
        driver.add(str(name), prompt)
    answers = driver.run()
    assert [answers[str(name)].token_ids for name in range(len(PROMPTS))] == alone


def test_prefix_hit_is_miss(make_engine) -> None:
    driver = make_engine()
    miss = driver.generate(PROMPTS[3])
    hit = driver.generate(PROMPTS[3])
    longer = driver.generate(PROMPTS[3] + miss.token_ids + [9])
    assert hit.token_ids == miss.token_ids
    assert miss.outputs[0].num_cached_tokens == 0
    assert hit.outputs[0].num_cached_tokens == 36
    # The answer's blocks are found too; its last token was never computed.
    assert longer.outputs[0].num_cached_tokens == 44
    fresh = make_engine(enable_prefix_caching=False)
    assert fresh.generate(PROMPTS[3] + miss.token_ids + [9]).token_ids == longer.token_ids
    assert sum(stats.prefix_cache_hits for stats in driver.stats) == 80
    assert sum(stats.prefix_cache_queries for stats in driver.stats) == 40 + 40 + 49


def test_another_salt_is_a_miss(make_engine) -> None:
    driver = make_engine()
    driver.generate(PROMPTS[3], cache_salt="a")
    assert driver.generate(PROMPTS[3], cache_salt="b").outputs[0].num_cached_tokens == 0
    assert driver.generate(PROMPTS[3], cache_salt="b").outputs[0].num_cached_tokens == 36


def test_requests_of_one_prompt_share_it(make_engine) -> None:
    driver = make_engine()
    for name in range(4):
        driver.add(str(name), PROMPTS[3], params={"seed": name, "temperature": 1.0})
    answers = driver.run()
    cached = [answers[str(name)].outputs[0].num_cached_tokens for name in range(4)]
    assert cached == [0, 36, 36, 36]
    assert len({tuple(answers[str(name)].token_ids) for name in range(4)}) > 1
    computed = sum(stats.num_batched_tokens for stats in driver.stats)
    assert computed == 40 + 3 * 4 + 4 * 7


@pytest.mark.parametrize("params", [{"max_tokens": 30}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("prefix_caching", [True, False])
def test_preempted_is_not(make_engine, params, prefix_caching) -> None:
    prompts = [prompt_of(20, seed) for seed in range(5)]
    alone = [make_engine().generate(prompt, params=params).token_ids for prompt in prompts]
    driver = make_engine(
        kv_cache_memory_bytes=26 * BYTES_PER_BLOCK,  # about two of them at their full length
        max_model_len=60,
        enable_prefix_caching=prefix_caching,
    )
    for name, prompt in enumerate(prompts):
        driver.add(str(name), prompt, params=params)
    answers = driver.run()
    assert sum(stats.num_preemptions for stats in driver.stats) > 0
    assert [answers[str(name)].token_ids for name in range(5)] == alone
    assert all(answers[str(name)].outputs[0].num_cached_tokens == 0 for name in range(5))


def test_a_seed_gives_the_same_tokens_in_any_company(make_engine) -> None:
    driver = make_engine()
    first = driver.generate(PROMPTS[0], params=SAMPLED).token_ids
    other = driver.generate(PROMPTS[0], params=SAMPLED | {"seed": 6}).token_ids
    assert first != other
    driver.add("company", PROMPTS[2], params={"temperature": 1.0, "max_tokens": 30})
    driver.step()
    assert driver.generate(PROMPTS[0], params=SAMPLED).token_ids == first


# Ends.


def test_max_model_len_ends_with_length(make_engine) -> None:
    driver = make_engine(max_model_len=30)
    answer = driver.generate(PROMPTS[2], params={"max_tokens": 100})
    assert len(answer.token_ids) == 7
    assert answer.finish_reason == "length"


def test_stop_ids_and_eos(make_engine) -> None:
    free = make_engine().generate(PROMPTS[0], params={"max_tokens": 8}).token_ids
    stop = free[3]
    expected = free[: free.index(stop) + 1]
    driver = make_engine()
    answer = driver.generate(PROMPTS[0], params={"stop_token_ids": (stop,)})
    assert answer.token_ids == expected
    assert (answer.finish_reason, answer.last.stop_token_id) == ("stop", stop)
    driver.engine.rules = type(driver.engine.rules)(frozenset({stop}), 128)
    answer = driver.generate(PROMPTS[0], params={"ignore_eos": False})
    assert answer.token_ids == expected
    assert (answer.finish_reason, answer.last.stop_token_id) == ("stop", stop)
    answer = driver.generate(PROMPTS[0], params={"ignore_eos": True})
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


def test_no_tokens_wanted(make_engine) -> None:
    answer = make_engine().generate(PROMPTS[0], params={"max_tokens": 0, "prompt_logprobs": 1})
    assert answer.token_ids == []
    assert answer.finish_reason == "length"
    assert answer.last.prompt_logprobs is not None
    assert len(answer.last.prompt_logprobs) == 5


# Abort.


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_abort_frees_before_the_next_step(make_engine, steps) -> None:
    driver = make_engine(max_num_batched_tokens=16)
    driver.add("gone", PROMPTS[3], params={"max_tokens": 50})
    driver.add("stays", PROMPTS[0])
    for _ in range(steps):
        driver.step()
    driver.engine.abort(["gone", "never heard of"])
    driver.engine.check_integrity()
    assert "gone" not in {s.request_id for s in driver.engine.scheduler.running}
    answers = driver.run()
    assert answers["gone"].finish_reason == "abort"
    assert answers["stays"].token_ids == make_engine().generate(PROMPTS[0]).token_ids
    assert driver.engine.pool.num_used == 0
    assert (driver.stats[-1].num_running, driver.stats[-1].kv_cache_usage) == (0, 0.0)


def test_abort_while_the_constraint_is_built(make_engine) -> None:
    started, may_end = threading.Event(), threading.Event()

    def slow(text: str):
        started.set()
        may_end.wait(10)
        raise AssertionError("nobody waits for this")

    driver = make_engine(factory=slow)
    driver.add("gone", PROMPTS[0], constraint="x")
    assert started.wait(10)
    driver.add("stays", PROMPTS[0])
    driver.engine.abort(["gone"])
    assert len(driver.run()["stays"].token_ids) == 8
    may_end.set()
    driver.generate(PROMPTS[0])
    assert [output.finish_reason for output in driver.answers["gone"].outputs] == ["abort"]


# Constraints.


def test_a_constraint_is_honoured_and_ends_the_answer(make_engine) -> None:
    driver = make_engine()
    driver.add("fixed", PROMPTS[0], constraint="7 8 9", params={"max_tokens": 50})
    driver.add("open", PROMPTS[2], constraint="4 5 ...", params={"ignore_eos": False})
    driver.add("free", PROMPTS[3])
    answers = driver.run()
    assert answers["fixed"].token_ids == [7, 8, 9]
    assert (answers["fixed"].finish_reason, answers["fixed"].last.stop_token_id) == ("stop", None)
    assert answers["open"].token_ids == [4, 5, 2]
    assert (answers["open"].finish_reason, answers["open"].last.stop_token_id) == ("stop", 2)
    assert answers["free"].token_ids == make_engine().generate(PROMPTS[3]).token_ids
    assert any(stats.mask_time > 0 for stats in driver.stats)


def test_sampled_tokens_obey_too(make_engine) -> None:
    params = {"temperature": 2.0, "max_tokens": 50}
    answer = make_engine().generate(PROMPTS[0], constraint="100 3 3 5", params=params)
    assert answer.token_ids == [100, 3, 3, 5]


def test_max_tokens_cuts_a_constrained_answer(make_engine) -> None:
    answer = make_engine().generate(PROMPTS[0], constraint="7 8 9", params={"max_tokens": 2})
    assert (answer.token_ids, answer.finish_reason) == ([7, 8], "length")


def test_a_free_step_fills_no_mask(make_engine) -> None:
    driver = make_engine()
    driver.generate(PROMPTS[0])
    assert all(stats.mask_time == 0.0 for stats in driver.stats)


class Broken:
    """Fails where it is told to; allows everything until then."""

    closed = False

    def __init__(self, where: str) -> None:
        self.where = where
        self.num_accepted = 0

    def fill_bitmask(self, row) -> bool:
        if self.num_accepted == 2:
            if self.where == "mask":
                raise RuntimeError("no mask today")
            if self.where == "zero":
                row[:] = 0
                return True
        return False

    def accept(self, token_id: int) -> None:
        self.num_accepted += 1
        if self.where == "accept" and self.num_accepted == 3:
            raise ValueError("not mine")

    def forced_tokens(self) -> list[int]:
        return []

    def rollback(self, num_tokens: int) -> None:
        raise AssertionError

    def is_terminated(self) -> bool:
        return False


@pytest.mark.parametrize("where", ["mask", "zero", "accept"])
def test_a_broken_constraint_takes_down_its_own_request_only(make_engine, where, caplog) -> None:
    driver = make_engine(factory=Broken)
    for name, prompt in enumerate(PROMPTS):
        driver.add(str(name), prompt, constraint=where if name == 1 else None)
    answers = driver.run()
    assert answers["1"].finish_reason == "error"
    assert answers["1"].last.error
    assert len(answers["1"].token_ids) == 2
    assert ("no token can be chosen" if where == "zero" else "bug") in caplog.text
    for name in (0, 2, 3, 4):
        assert answers[str(name)].token_ids == make_engine().generate(PROMPTS[name]).token_ids


def test_a_constraint_that_cannot_be_built_is_an_error(make_engine) -> None:
    driver = make_engine()
    driver.add("bad", PROMPTS[0], constraint="seven")
    driver.add("good", PROMPTS[0], constraint="7")
    answers = driver.run()
    assert answers["bad"].finish_reason == "error"
    assert "seven" in answers["bad"].last.error
    assert answers["good"].token_ids == [7]


def test_a_slow_build_holds_up_nobody(make_engine) -> None:
    may_end = threading.Event()
    from_conftest = make_engine().engine.builder._factory

    def slow(text: str):
        assert may_end.wait(10)
        return from_conftest(text)

    driver = make_engine(factory=slow)
    driver.add("slow", PROMPTS[0], constraint="7 8")
    driver.add("free", PROMPTS[2])
    while "free" not in driver.answers or driver.answers["free"].finish_reason is None:
        driver.step()
    assert "slow" not in driver.answers
    assert driver.stats[-1].num_waiting == 1
    may_end.set()
    assert driver.run()["slow"].token_ids == [7, 8]


@pytest.mark.parametrize("open_end", ["", " ..."])
def test_forced_tokens_on_is_off(make_engine, open_end) -> None:
    text = " ".join(str(token) for token in range(20, 40)) + open_end
    request = {"constraint": text, "params": {"max_tokens": 50, "ignore_eos": False}}
    off, on = make_engine(), make_engine(forced_tokens=True)
    slow, fast = off.generate(PROMPTS[2], **request), on.generate(PROMPTS[2], **request)
    assert fast.token_ids == slow.token_ids
    assert (fast.finish_reason, fast.last.stop_token_id) == (
        slow.finish_reason,
        slow.last.stop_token_id,
    )
    assert len(on.stats) < len(off.stats) / 5
    assert sum(stats.num_forced_tokens for stats in on.stats) == 20
    assert sum(stats.num_forced_tokens for stats in off.stats) == 0


def test_what_is_forced_from_the_start_is_computed_with_the_prompt(make_engine) -> None:
    driver = make_engine(forced_tokens=True)
    for _ in range(2):
        answer = driver.generate(
            PROMPTS[2], constraint="20 21 22 ...", params={"max_tokens": 9, "ignore_eos": False}
        )
        assert answer.token_ids == [20, 21, 22, 2]
        assert [output.token_ids for output in answer.outputs] == [[20, 21, 22, 2]]
    # The second finds 24 of the 26 tokens, and 23 of these are the prompt.
    assert sum(stats.num_batched_tokens for stats in driver.stats) == 26 + 2
    assert answer.outputs[0].num_cached_tokens == 23
    steps = len(driver.stats)
    whole = driver.generate(PROMPTS[2], constraint="20 21 22")
    assert (whole.token_ids, whole.finish_reason) == ([20, 21, 22], "stop")
    assert sum(stats.num_batched_tokens for stats in driver.stats[steps:]) == 0
    assert sum(stats.num_forced_tokens for stats in driver.stats) == 9


class ThenFree:
    """Forces five tokens after the first and then allows everything."""

    closed = False

    def __init__(self, text: str) -> None:
        self.num_accepted = 0

    def fill_bitmask(self, row) -> bool:
        if 0 < self.num_accepted < 6:
            row[:] = 0
            row[0] = 1 << (self.num_accepted + 2)
            return True
        return False

    def accept(self, token_id: int) -> None:
        self.num_accepted += 1

    def forced_tokens(self) -> list[int]:
        return [n + 2 for n in range(self.num_accepted, 6)] if self.num_accepted else []

    def rollback(self, num_tokens: int) -> None:
        self.num_accepted -= num_tokens

    def is_terminated(self) -> bool:
        return False


def test_keys_and_values_of_forced_tokens_are_exact(make_engine) -> None:
    params = {"max_tokens": 20}
    off = make_engine(factory=ThenFree).generate(PROMPTS[2], constraint="x", params=params)
    driver = make_engine(factory=ThenFree, forced_tokens=True)
    driver.add("company", PROMPTS[3], params={"max_tokens": 30})
    on = driver.generate(PROMPTS[2], constraint="x", params=params)
    assert on.token_ids == off.token_ids
    assert on.token_ids[1:6] == [3, 4, 5, 6, 7]


def test_forced_tokens_stop_at_max_tokens(make_engine) -> None:
    driver = make_engine(forced_tokens=True)
    answer = driver.generate(PROMPTS[0], constraint="3 4 5 6 7", params={"max_tokens": 3})
    assert (answer.token_ids, answer.finish_reason) == ([3, 4, 5], "length")


# Errors stay with their request.


def test_nan_ends_its_own_request_and_leaves_nothing_behind(make_engine, caplog) -> None:
    driver = make_engine(kv_cache_memory_bytes=40 * BYTES_PER_BLOCK, max_model_len=80)
    clean = {
        name: make_engine().generate(PROMPTS[name], params={"max_tokens": 12}).token_ids
        for name in (0, 2, 4)
    }
    used = {token for name in clean for token in PROMPTS[name] + clean[name]}
    poison = min(set(range(3, 131)) - used)
    with torch.no_grad():
        driver.engine.runner.model.model.embed_tokens.weight[poison] = float("nan")
    bad = [poison, *prompt_of(30)]
    driver.add("bad", bad)
    for name in clean:
        driver.add(str(name), PROMPTS[name], params={"max_tokens": 12})
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
def test_a_prompt_that_cannot_be_served_is_an_error(make_engine, prompt, message) -> None:
    driver = make_engine()
    driver.add("bad", prompt)
    driver.add("good", PROMPTS[0])
    answers = driver.run()
    assert answers["bad"].finish_reason == "error"
    assert message in answers["bad"].last.error
    assert len(answers["good"].token_ids) == 8


# What comes with the tokens.


def test_logprobs_come_one_per_token(make_engine) -> None:
    driver = make_engine(forced_tokens=True)
    answer = driver.generate(PROMPTS[0], constraint="7 8 9", params={"logprobs": 2})
    found = [p for output in answer.outputs for p in output.logprobs]
    assert [p.chosen.token_id for p in found] == answer.token_ids == [7, 8, 9]


@pytest.mark.parametrize("chunk", [256, 7])
def test_prompt_logprobs_are_those_of_the_whole_pass(make_engine, llama_dir, chunk) -> None:
    prompt = PROMPTS[2]
    with torch.no_grad():
        model = LlamaForCausalLM.from_pretrained(llama_dir, dtype=torch.float32)
        expected = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    driver = make_engine(max_num_batched_tokens=chunk, max_num_seqs=3)
    driver.generate(prompt)  # what is cached must not be used
    answer = driver.generate(prompt, params={"prompt_logprobs": 3})
    found = answer.outputs[0].prompt_logprobs
    assert answer.outputs[0].num_cached_tokens == 0
    assert all(output.prompt_logprobs is None for output in answer.outputs[1:])
    assert len(found) == len(prompt)
    assert found[0] is None
    for position, entry in enumerate(found[1:], start=1):
        logprobs = expected[position - 1]
        assert entry.chosen.token_id == prompt[position]
        assert entry.chosen.logprob == pytest.approx(logprobs[prompt[position]].item(), abs=1e-4)
        assert entry.chosen.rank == (logprobs > logprobs[prompt[position]]).sum().item() + 1
        assert [t.token_id for t in entry.top] == logprobs.topk(3).indices.tolist()
        assert [t.rank for t in entry.top] == [1, 2, 3]


def test_statistics_are_true(make_engine) -> None:
    driver = make_engine(max_num_seqs=2)
    for name in range(3):
        driver.add(str(name), PROMPTS[name], params={"max_tokens": 4})
    driver.step()
    first = driver.stats[0]
    assert (first.num_running, first.num_waiting) == (2, 1)
    assert first.num_batched_tokens == len(PROMPTS[0]) + len(PROMPTS[1])
    assert first.prefix_cache_queries == first.num_batched_tokens
    assert first.kv_cache_usage == 3 / driver.engine.pool.num_blocks
    answers = driver.run()
    assert all(answer.outputs[0].queue_time >= 0 for answer in answers.values())
    assert answers["2"].outputs[0].queue_time > answers["0"].outputs[0].queue_time
    assert driver.stats[-1].num_running == 0
    computed = sum(stats.num_batched_tokens for stats in driver.stats)
    assert computed == sum(len(PROMPTS[name]) + 3 for name in range(3))


# Priorities.


def test_priority_policy_runs_the_urgent_first(make_engine) -> None:
    driver = make_engine(max_num_seqs=1, scheduling_policy="priority")
    for name, priority in (("late", 2), ("soon", 1), ("now", 0)):
        driver.add(name, PROMPTS[0], priority=priority)
    order: list[str] = []
    while driver.engine.has_work:
        order += [o.request_id for o in driver.step() if o.finish_reason is not None]
    assert order == ["now", "soon", "late"]


# Start.


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_model_len": 1000}, "lower it to 128"),
        (
            {"max_model_len": 100, "kv_cache_memory_bytes": 20 * BYTES_PER_BLOCK},
            "--max-model-len to 80",
        ),
        ({"kv_cache_memory_bytes": 100}, "--kv-cache-memory-bytes to 32768"),
        ({"max_num_batched_tokens": 8}, "--max-num-seqs to 8"),
        ({"tensor_parallel_size": 2}, "--tensor-parallel-size"),
        ({"quantization": "awq"}, "--quantization awq"),
    ],
)
def test_a_config_that_cannot_run_says_what_to_change(make_engine, fields, message) -> None:
    with pytest.raises(EngineStartError, match=message) as caught:
        make_engine(**fields)
    assert "\n" not in str(caught.value)


def test_the_models_own_length_yields_to_the_memory(make_engine) -> None:
    driver = make_engine(kv_cache_memory_bytes=20 * BYTES_PER_BLOCK)
    assert driver.engine.ready.max_model_len == 80
    assert driver.engine.ready.num_blocks == 20


def test_the_cache_is_no_larger_than_can_be_used(make_engine) -> None:
    assert make_engine(max_num_seqs=2).engine.ready.num_blocks == 2 * 32


def test_dummy_weights_answer(make_engine) -> None:
    answer = make_engine(load_format="dummy").generate(PROMPTS[0])
    assert len(answer.token_ids) == 8


# Everything at once.


@pytest.mark.parametrize("seed", range(6))
def test_random_traffic(make_engine, seed: int) -> None:
    rng = random.Random(seed)
    shared = prompt_of(12)
    driver = make_engine(
        kv_cache_memory_bytes=rng.choice([24, 40]) * BYTES_PER_BLOCK,
        max_model_len=80,
        max_num_seqs=rng.randint(2, 6),
        max_num_batched_tokens=rng.randint(6, 48),
        scheduling_policy=rng.choice(["fcfs", "priority"]),
        forced_tokens=rng.random() < 0.5,
    )
    requests: dict[str, dict] = {}
    aborted: set[str] = set()
    for number in range(24):
        head = shared[: rng.randint(0, 12)] if rng.random() < 0.6 else []
        request = {
            "prompt": head + prompt_of(rng.randint(1, 25), rng.randrange(3)),
            "params": {"max_tokens": rng.randint(1, 24)},
        }
        if rng.random() < 0.4:
            answer = [rng.randrange(3, 131) for _ in range(rng.randint(1, 12))]
            request["constraint"] = " ".join(map(str, answer))
        if rng.random() < 0.3:
            request["params"] |= {"temperature": 1.0, "seed": number}
        if rng.random() < 0.15:
            request["params"]["prompt_logprobs"] = 1
        requests[str(number)] = request
        driver.add(str(number), **request, priority=rng.randrange(3))
        for _ in range(rng.randint(0, 4)):
            driver.step()
        if rng.random() < 0.25:
            name = rng.choice(list(requests))
            driver.engine.abort([name])
            if driver.answers[name].outputs == [] or driver.answers[name].finish_reason is None:
                aborted.add(name)
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
