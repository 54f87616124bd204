"""Constrained requests in the engine: masks, forced tokens, and constraints that fail."""

from __future__ import annotations

import itertools
import threading

import pytest


def test_a_constraint_is_honoured_and_ends_the_answer(make_engine, prompts) -> None:
    driver = make_engine()
    driver.add("fixed", prompts[0], constraint="7 8 9", params={"max_tokens": 50})
    driver.add("open", prompts[2], constraint="4 5 ...", params={"ignore_eos": False})
    driver.add("free", prompts[3])
    answers = driver.run()
    assert answers["fixed"].token_ids == [7, 8, 9]
    assert (answers["fixed"].finish_reason, answers["fixed"].last.stop_token_id) == ("stop", None)
    assert answers["open"].token_ids == [4, 5, 2]
    assert (answers["open"].finish_reason, answers["open"].last.stop_token_id) == ("stop", 2)
    assert answers["free"].token_ids == make_engine().generate(prompts[3]).token_ids
    assert any(stats.mask_time > 0 for stats in driver.stats)


def test_sampled_tokens_obey_too(make_engine, prompts) -> None:
    params = {"temperature": 2.0, "max_tokens": 50}
    answer = make_engine().generate(prompts[0], constraint="100 3 3 5", params=params)
    assert answer.token_ids == [100, 3, 3, 5]


def test_max_tokens_cuts_a_constrained_answer(make_engine, prompts) -> None:
    answer = make_engine().generate(prompts[0], constraint="7 8 9", params={"max_tokens": 2})
    assert (answer.token_ids, answer.finish_reason) == ([7, 8], "length")


def test_a_free_step_fills_no_mask(make_engine, prompts) -> None:
    driver = make_engine()
    driver.generate(prompts[0])
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
            if self.where == "limit":
                raise ValueError("too large a mask")
            if self.where == "zero":
                row[:] = 0
                return True
        return False

    def accept(self, token_id: int) -> None:
        self.num_accepted += 1
        if self.where == "accept" and self.num_accepted == 3:
            raise RuntimeError("not mine")
        if self.where == "accept limit" and self.num_accepted == 3:
            raise ValueError("too large a state")

    def forced_tokens(self) -> list[int]:
        if self.where == "forced from the start" or (
            self.where == "forced" and self.num_accepted == 2
        ):
            raise ValueError("too large a run")
        return []

    def rollback(self, num_tokens: int) -> None:
        raise AssertionError

    def is_terminated(self) -> bool:
        return False


@pytest.mark.parametrize("where", ["mask", "zero", "accept"])
def test_a_broken_constraint_takes_down_its_own_request_only(
    make_engine, where, caplog, prompts
) -> None:
    driver = make_engine(factory=Broken)
    for name, prompt in enumerate(prompts):
        driver.add(str(name), prompt, constraint=where if name == 1 else None)
    answers = driver.run()
    assert answers["1"].finish_reason == "error"
    assert answers["1"].last.error
    assert answers["1"].last.fault is None
    assert len(answers["1"].token_ids) == 2
    assert ("no token can be chosen" if where == "zero" else "bug") in caplog.text
    for name in (0, 2, 3, 4):
        assert answers[str(name)].token_ids == make_engine().generate(prompts[name]).token_ids


@pytest.mark.parametrize("where", ["limit", "accept limit", "forced", "forced from the start"])
def test_a_constraint_at_its_limit_is_the_fault_of_its_request(make_engine, prompts, where) -> None:
    answer = make_engine(factory=Broken).generate(prompts[0], constraint=where)
    assert (answer.finish_reason, answer.last.fault) == ("error", "constraint")
    assert "too large a" in answer.last.error


@pytest.mark.parametrize(
    ("wishes", "constraint", "fault"),
    [
        ({"allowed_token_ids": (5,)}, "7 8", "allowed_token_ids"),
        ({"bad_words": ((7,),)}, "7 8", "bad_words"),
        ({"allowed_token_ids": (5,), "bad_words": ((5,),)}, None, "allowed_token_ids"),
    ],
)
def test_wishes_that_exclude_one_another_are_the_fault_of_their_request(
    make_engine, prompts, wishes, constraint, fault
) -> None:
    driver = make_engine()
    driver.add("bad", prompts[0], constraint=constraint, params=wishes)
    driver.add("good", prompts[2])
    answers = driver.run()
    assert (answers["bad"].finish_reason, answers["bad"].last.fault) == ("error", fault)
    assert len(answers["good"].token_ids) == 8


def test_a_constraint_that_cannot_be_built_is_an_error(make_engine, prompts) -> None:
    driver = make_engine()
    driver.add("bad", prompts[0], constraint="seven")
    driver.add("good", prompts[0], constraint="7")
    answers = driver.run()
    assert answers["bad"].finish_reason == "error"
    assert "seven" in answers["bad"].last.error
    assert answers["bad"].last.fault == "constraint"
    assert answers["good"].token_ids == [7]


def test_a_slow_build_holds_up_nobody(make_engine, prompts) -> None:
    may_end = threading.Event()
    from_conftest = make_engine().engine.builder._factory

    def slow(text: str):
        assert may_end.wait(10)
        return from_conftest(text)

    driver = make_engine(factory=slow)
    driver.add("slow", prompts[0], constraint="7 8")
    driver.add("free", prompts[2])
    while "free" not in driver.answers or driver.answers["free"].finish_reason is None:
        driver.step()
    assert "slow" not in driver.answers
    assert driver.stats[-1].num_waiting == 1
    may_end.set()
    assert driver.run()["slow"].token_ids == [7, 8]


@pytest.mark.parametrize("open_end", ["", " ..."])
def test_forced_tokens_on_is_off(make_engine, open_end, prompts) -> None:
    text = " ".join(str(token) for token in range(20, 40)) + open_end
    request = {"constraint": text, "params": {"max_tokens": 50, "ignore_eos": False}}
    off, on = make_engine(forced_tokens=False), make_engine()
    slow, fast = off.generate(prompts[2], **request), on.generate(prompts[2], **request)
    assert fast.token_ids == slow.token_ids
    assert (fast.finish_reason, fast.last.stop_token_id) == (
        slow.finish_reason,
        slow.last.stop_token_id,
    )
    assert len(on.stats) < len(off.stats) / 5
    assert sum(stats.num_forced_tokens for stats in on.stats) == 20
    assert sum(stats.num_forced_tokens for stats in off.stats) == 0


def test_what_is_forced_from_the_start_is_computed_with_the_prompt(make_engine, prompts) -> None:
    driver = make_engine()
    for _ in range(2):
        answer = driver.generate(
            prompts[2], constraint="20 21 22 ...", params={"max_tokens": 9, "ignore_eos": False}
        )
        assert answer.token_ids == [20, 21, 22, 2]
        assert [output.token_ids for output in answer.outputs] == [[20, 21, 22, 2]]
    # The second finds 24 of the 26 tokens, and 23 of these are the prompt.
    assert sum(stats.num_batched_tokens for stats in driver.stats) == 26 + 2
    assert answer.outputs[0].num_cached_tokens == 23
    steps = len(driver.stats)
    whole = driver.generate(prompts[2], constraint="20 21 22")
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


class InRuns:
    """Forces a run of each of these lengths behind a token that is free."""

    closed = False
    runs = (1, 5, 2, 3, 4)

    def __init__(self, text: str) -> None:
        self.kinds = [kind for run in self.runs for kind in ("free", *["forced"] * run)]
        self.num_accepted = 0

    def fill_bitmask(self, row) -> bool:
        if self.kinds[self.num_accepted] == "forced":
            row[:] = 0
            row[0] = 1 << (self.num_accepted + 3)
            return True
        return False

    def accept(self, token_id: int) -> None:
        if self.kinds[self.num_accepted] == "forced":
            assert token_id == self.num_accepted + 3
        self.num_accepted += 1

    def forced_tokens(self) -> list[int]:
        run = itertools.takewhile(lambda kind: kind == "forced", self.kinds[self.num_accepted :])
        return [self.num_accepted + 3 + at for at, _ in enumerate(run)]

    def rollback(self, num_tokens: int) -> None:
        self.num_accepted -= num_tokens

    def is_terminated(self) -> bool:
        return self.num_accepted == len(self.kinds)


@pytest.mark.parametrize("few", [0, 8])
@pytest.mark.parametrize(
    "fields",
    [
        {"async_scheduling": False},
        {"async_scheduling": True},
        {"async_scheduling": True, "max_cudagraph_capture_size": 16},
    ],
)
def test_forced_tokens_are_the_same_whether_or_not_steps_overlap(
    make_engine, prompts, monkeypatch, fields, few
) -> None:
    monkeypatch.setattr("formgate.engine.engine.FEW_ROWS", few)
    params = {"max_tokens": 60, "temperature": 0.8, "seed": 3}
    plain = make_engine(factory=InRuns, forced_tokens=False)
    expected = plain.generate(prompts[2], constraint="x", params=params)
    driver = make_engine(factory=InRuns, **fields)
    driver.add("company", prompts[3], params={"max_tokens": 30})
    answer = driver.generate(prompts[2], constraint="x", params=params)
    assert answer.token_ids == expected.token_ids
    assert len(answer.token_ids) == len(InRuns.runs) + sum(InRuns.runs)
    assert sum(stats.num_forced_tokens for stats in driver.stats) == sum(InRuns.runs)


def test_keys_and_values_of_forced_tokens_are_exact(make_engine, prompts) -> None:
    params = {"max_tokens": 20}
    plain = make_engine(factory=ThenFree, forced_tokens=False)
    off = plain.generate(prompts[2], constraint="x", params=params)
    driver = make_engine(factory=ThenFree)
    driver.add("company", prompts[3], params={"max_tokens": 30})
    on = driver.generate(prompts[2], constraint="x", params=params)
    assert on.token_ids == off.token_ids
    assert on.token_ids[1:6] == [3, 4, 5, 6, 7]


def test_forced_tokens_stop_at_max_tokens(make_engine, prompts) -> None:
    driver = make_engine()
    answer = driver.generate(prompts[0], constraint="3 4 5 6 7", params={"max_tokens": 3})
    assert (answer.token_ids, answer.finish_reason) == ([3, 4, 5], "length")
