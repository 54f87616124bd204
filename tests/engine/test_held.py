"""A held request: its prompt is computed while its constraint is still being compiled."""

from __future__ import annotations

import pytest

PROMPT = [3 + n % 50 for n in range(37)]
OTHER = [60, 61, 62, 63, 64]
ANSWER = "20 21 22"


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("chunk", [256, 16])
def test_it_is_answered_as_if_it_had_not_been_held(make_engine, overlap, chunk) -> None:
    options = {"async_scheduling": overlap, "max_num_batched_tokens": chunk}
    expected = make_engine(**options).generate(OTHER)
    driver = make_engine(**options)
    driver.add("held", PROMPT, held=True)
    driver.add("other", OTHER)
    driver.run()
    assert driver.answers["other"].token_ids == expected.token_ids
    assert "held" not in driver.answers
    # All but the last token of the prompt are there by now, and nothing spins meanwhile.
    computed = sum(stats.num_batched_tokens for stats in driver.stats)
    assert computed == len(PROMPT) - 1 + len(OTHER) + len(expected.token_ids) - 1
    assert not driver.engine.has_work

    driver.engine.release("held", ANSWER)
    assert driver.run()["held"].token_ids == [20, 21, 22]
    steps = [stats.num_batched_tokens for stats in driver.stats if stats.num_batched_tokens]
    assert steps[-3:] == [1, 1, 1]


@pytest.mark.parametrize("prompt", [PROMPT, [5]], ids=["long", "one token"])
def test_released_before_its_prompt_was_looked_at(make_engine, prompt) -> None:
    driver = make_engine()
    driver.add("held", prompt, held=True)
    driver.engine.release("held", ANSWER)
    assert driver.run()["held"].token_ids == [20, 21, 22]


def test_one_token_has_nothing_to_compute_ahead(make_engine) -> None:
    driver = make_engine()
    driver.add("held", [5], held=True)
    driver.run()
    assert sum(stats.num_batched_tokens for stats in driver.stats) == 0
    driver.engine.release("held", ANSWER)
    assert driver.run()["held"].token_ids == [20, 21, 22]


def test_what_is_forced_from_the_start_ends_it_at_once(make_engine) -> None:
    driver = make_engine()
    driver.add("held", PROMPT, held=True)
    driver.run()
    driver.engine.release("held", ANSWER)
    assert driver.run()["held"].token_ids == [20, 21, 22]
    assert sum(stats.num_batched_tokens for stats in driver.stats) == len(PROMPT) - 1


def test_an_abort_leaves_nothing(make_engine) -> None:
    driver = make_engine()
    driver.add("held", PROMPT, held=True)
    driver.run()
    driver.engine.abort(["held"])
    driver.engine.release("held", ANSWER)  # crossed the abort
    assert driver.run()["held"].finish_reason == "abort"
    driver.engine.check_integrity()


def test_a_constraint_that_cannot_be_built_ends_it(make_engine) -> None:
    driver = make_engine()
    driver.add("held", PROMPT, held=True)
    driver.run()
    driver.engine.release("held", "no number")
    assert driver.run()["held"].finish_reason == "error"


def test_who_is_held_gives_way_and_comes_back(make_engine) -> None:
    """In a cache for little more than one, who runs takes the blocks of who is held."""
    options = {"kv_blocks": 16, "max_model_len": 64}
    params = {"max_tokens": 50}
    expected = make_engine(**options).generate(OTHER, params=params)
    driver = make_engine(**options)
    driver.add("first", OTHER, params=params)
    driver.step()
    driver.add("held", PROMPT, held=True)
    while driver.answers["first"].finish_reason is None:
        driver.step()
    assert sum(stats.num_preemptions for stats in driver.stats) > 0
    assert driver.answers["first"].token_ids == expected.token_ids
    driver.engine.release("held", ANSWER)
    assert driver.run()["held"].token_ids == [20, 21, 22]
