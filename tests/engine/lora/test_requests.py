"""Adapters by name in a running engine: slots, loading, unloading, reloading, the prefix cache."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from formgate.engine.adapter import AdapterError, AdapterSource
from formgate.engine.messages import LoadAdapter, UnloadAdapter


def sources(adapters: dict[str, Path]) -> tuple[AdapterSource, ...]:
    return tuple(AdapterSource(name, path) for name, path in adapters.items())


@pytest.fixture
def make_lora(make_engine):
    def make(adapters: dict[str, Path], **fields):
        options = {"enable_lora": True, "adapters": sources(adapters)}
        return make_engine(**(options | fields))

    return make


def run(driver) -> dict:
    """As `Driver.run`, with time for the threads that read folders."""
    deadline = time.monotonic() + 60
    while driver.engine.has_work:
        if not driver.step():
            time.sleep(0.001)
        assert time.monotonic() < deadline, "the engine never came to an end"
    return driver.answers


def change(driver, command) -> str | None:
    """Give a command and wait for its end; the error."""
    adapters = driver.engine.adapters
    adapters.load(command) if isinstance(command, LoadAdapter) else adapters.unload(command)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        driver.step()
        for ended in adapters.take_changes():
            if ended.command_id == command.command_id:
                return ended.error
        time.sleep(0.001)
    raise AssertionError("the command never ended")


def load(driver, name: str, path: Path, **fields) -> str | None:
    return change(driver, LoadAdapter(f"load {name}", name, str(path), **fields))


def unload(driver, name: str) -> str | None:
    return change(driver, UnloadAdapter(f"unload {name}", name))


def test_two_hundred_adapters_through_four_slots(make_lora, make_adapter, prompt_of) -> None:
    paths = {f"a{i}": make_adapter(f"a{i}", 1 + i % 8, seed=i + 1) for i in range(200)}
    driver = make_lora(paths, max_loras=4, max_cpu_loras=8)
    prompt = prompt_of(7)
    for name in paths:
        driver.add(name, prompt, params={"max_tokens": 3}, lora_name=name)
    driver.add("base", prompt, params={"max_tokens": 3})
    answers = {name: answer.token_ids for name, answer in run(driver).items()}
    assert set(answers) == {*paths, "base"}
    few = list(paths)[::25]
    alone = make_lora({name: paths[name] for name in few}, max_loras=1)
    for name in few:
        expected = alone.generate(prompt, params={"max_tokens": 3}, lora_name=name)
        assert answers[name] == expected.token_ids, name
    assert answers["base"] == alone.generate(prompt, params={"max_tokens": 3}).token_ids
    assert len({tuple(tokens) for tokens in answers.values()}) > 50


def test_who_waits_for_a_slot_holds_up_nobody(make_lora, make_adapter, prompt_of) -> None:
    paths = {name: make_adapter(name, 4) for name in ("busy", "late")}
    driver = make_lora(paths, max_loras=1)
    driver.add("busy", prompt_of(5), params={"max_tokens": 20}, lora_name="busy")
    driver.step()
    driver.add("late", prompt_of(5), params={"max_tokens": 2}, lora_name="late")
    driver.add("more", prompt_of(6), params={"max_tokens": 20}, lora_name="busy")
    driver.add("base", prompt_of(7), params={"max_tokens": 2})
    for _ in range(6):
        driver.step()
    assert driver.answers["base"].finish_reason == "length"
    assert "late" not in driver.answers
    assert driver.stats[-1].running_adapters == ["busy"]
    assert driver.stats[-1].waiting_adapters == ["busy", "late"]
    run(driver)
    order = [name for name in driver.answers if driver.answers[name].finish_reason]
    # "more" came after "late", so it does not keep the slot from it.
    assert order == ["busy", "base", "late", "more"]


def test_a_flood_starves_nobody(make_lora, make_adapter, prompt_of) -> None:
    paths = {name: make_adapter(name, 2) for name in ("a", "b", "c")}
    driver = make_lora(paths, max_loras=2, max_num_seqs=4)
    ended: list[str] = []
    for number in range(40):
        driver.add(f"{number}", prompt_of(5, number), lora_name="ab"[number % 2])
        if number == 12:
            driver.add("rare", prompt_of(5), lora_name="c")
        ended += [one.request_id for one in driver.step() if one.finish_reason]
    while driver.engine.has_work:
        ended += [one.request_id for one in driver.step() if one.finish_reason]
    assert len(ended) == 41
    later = {str(number) for number in range(13, 40)}
    assert len(later & set(ended[: ended.index("rare")])) <= 8  # of those that came after it


def test_a_reload_changes_answers(make_lora, make_adapter, prompt_of) -> None:
    """A new adapter under an old name meets no block of the old one."""
    first, second = make_adapter("first", 4), make_adapter("second", 8)
    driver = make_lora({"x": first})
    prompt = prompt_of(30)
    before = driver.generate(prompt, lora_name="x")
    again = driver.generate(prompt, lora_name="x")
    assert again.outputs[0].num_cached_tokens == 28
    assert again.token_ids == before.token_ids
    assert driver.generate(prompt).outputs[0].num_cached_tokens == 0  # the base model's own
    assert load(driver, "x", second) == "The adapter `x` is loaded already."
    assert load(driver, "x", second, replace=True) is None
    after = driver.generate(prompt, lora_name="x")
    assert after.outputs[0].num_cached_tokens == 0
    fresh = make_lora({"x": second}).generate(prompt, lora_name="x")
    assert after.token_ids == fresh.token_ids != before.token_ids
    # The first one's weights come back, and with them its blocks.
    assert load(driver, "x", first, replace=True) is None
    back = driver.generate(prompt, lora_name="x")
    assert (back.token_ids, back.outputs[0].num_cached_tokens) == (before.token_ids, 28)


def test_weights_that_change_in_place(make_lora, make_adapter, prompt_of) -> None:
    folder = make_adapter("x", 4)
    driver = make_lora({"x": folder})
    prompt = prompt_of(30)
    before = driver.generate(prompt, lora_name="x").token_ids
    make_adapter("x", 4, seed=99)
    assert driver.generate(prompt, lora_name="x").token_ids == before
    assert load(driver, "x", folder, replace=True) is None
    after = driver.generate(prompt, lora_name="x")
    assert after.outputs[0].num_cached_tokens == 0
    assert after.token_ids == make_lora({"x": folder}).generate(prompt, lora_name="x").token_ids
    assert after.token_ids != before


def test_an_unload_while_requests_run(make_lora, make_adapter, prompt_of) -> None:
    path = make_adapter("x", 4)
    expected = make_lora({"x": path}).generate(prompt_of(9), lora_name="x").token_ids
    driver = make_lora({"x": path})
    driver.add("running", prompt_of(9), lora_name="x")
    driver.step()
    driver.step()
    driver.add("waiting", prompt_of(9), lora_name="x")
    assert unload(driver, "x") is None
    driver.add("late", prompt_of(9), lora_name="x")
    answers = run(driver)
    assert answers["running"].token_ids == expected
    assert answers["waiting"].token_ids == expected
    assert answers["late"].last.fault == "model"
    assert answers["late"].last.error == "The adapter `x` does not exist."
    assert unload(driver, "x") == "The adapter `x` does not exist."
    assert load(driver, "x", path) is None
    assert driver.generate(prompt_of(9), lora_name="x").token_ids == expected


def test_a_folder_that_changed_behind_its_name(make_lora, make_adapter, prompt_of) -> None:
    """An adapter that is in memory no more is read again, and must be the same."""
    paths = {name: make_adapter(name, 4) for name in ("a", "b", "c")}
    driver = make_lora(paths, max_loras=1, max_cpu_loras=1)
    a = driver.engine.adapters.find("a")
    driver.generate(prompt_of(5), lora_name="c")
    make_adapter("a", 4, seed=99)
    shutil.rmtree(paths["b"])
    for name in paths:
        driver.add(name, prompt_of(5), lora_name=name)
    answers = run(driver)
    assert answers["a"].last.error == "the adapter a has changed on disk: load it again"
    assert answers["b"].last.error == f"{paths['b']} is not a folder"
    assert answers["c"].finish_reason == "length"
    assert load(driver, "a", paths["a"], replace=True) is None
    assert driver.engine.adapters.find("a") != a
    driver.add("again", prompt_of(5), lora_name="a")
    assert run(driver)["again"].finish_reason == "length"


def test_an_abort_of_a_sequence_that_waits_for_its_adapter(
    make_lora, make_adapter, prompt_of
) -> None:
    paths = {name: make_adapter(name, 4) for name in ("a", "b")}
    driver = make_lora(paths, max_loras=1, max_cpu_loras=1)
    driver.add("a", prompt_of(5), lora_name="a")
    driver.step()
    driver.add("b", prompt_of(5), lora_name="b")
    driver.step()
    driver.engine.abort(["a", "b"])
    answers = run(driver)
    assert answers["a"].finish_reason == answers["b"].finish_reason == "abort"
    driver.add("c", prompt_of(5), lora_name="b")
    assert run(driver)["c"].finish_reason == "length"


def test_a_preempted_sequence_keeps_its_adapter(make_lora, make_adapter, prompt_of) -> None:
    paths = {name: make_adapter(name, 4) for name in ("a", "b", "c")}
    prompts = {name: prompt_of(30, seed) for seed, name in enumerate(paths)}
    params = {"max_tokens": 60}
    plenty, scarce = make_lora(paths), make_lora(paths, kv_blocks=34, max_loras=2)
    for driver in (plenty, scarce):
        for name, prompt in prompts.items():
            driver.add(name, prompt, params=params, lora_name=name)
        run(driver)
    assert sum(stats.num_preemptions for stats in scarce.stats)
    for name in prompts:
        assert scarce.answers[name].token_ids == plenty.answers[name].token_ids


def test_a_constraint_and_an_adapter(make_lora, make_adapter, prompt_of) -> None:
    driver = make_lora({"a": make_adapter("a", 4)})
    driver.add("r", prompt_of(5), lora_name="a", constraint="5 6 7")
    deadline = time.monotonic() + 60
    while driver.engine.has_work and time.monotonic() < deadline:
        driver.step()
    assert driver.answers["r"].token_ids == [5, 6, 7]


def test_an_engine_without_adapters(make_engine, make_adapter, prompt_of) -> None:
    driver = make_engine()
    driver.add("r", prompt_of(5), lora_name="x")
    assert driver.run()["r"].last.fault == "model"
    assert (
        load(driver, "x", make_adapter("x", 4)) == "The server takes no adapters (--enable-lora)."
    )


def test_two_ask_for_the_same(make_lora, make_adapter, prompt_of) -> None:
    """As two HTTP processes may, for a folder of `--lora-dir`."""
    path, other = make_adapter("x", 4), make_adapter("y", 4)
    driver = make_lora({})
    adapters = driver.engine.adapters
    for command_id, folder in (("1", path), ("2", path), ("3", other)):
        adapters.load(LoadAdapter(command_id, "x", str(folder)))
    adapters.load(LoadAdapter("4", "x", str(path), replace=True))
    ends: dict[str, str | None] = {}
    deadline = time.monotonic() + 60
    while len(ends) < 4 and time.monotonic() < deadline:
        driver.step()
        ends |= {one.command_id: one.error for one in adapters.take_changes()}
    busy = "The adapter `x` is being loaded."
    assert ends == {"1": None, "2": None, "3": busy, "4": busy}
    assert adapters.find("x").source.path == path


def test_a_bad_adapter_of_a_server_that_has_started_once(
    make_engine, make_adapter, prompt_of, tmp_path
) -> None:
    adapters = (
        AdapterSource("lost", tmp_path / "lost"),
        AdapterSource("good", make_adapter("good", 4)),
    )
    driver = make_engine(enable_lora=True, adapters=adapters, skip_bad_adapters=True)
    assert [one.name for one in driver.engine.adapters.infos()] == ["good"]
    assert driver.generate(prompt_of(5), lora_name="good").finish_reason == "length"


def test_adapters_that_are_not_enabled(make_engine, make_adapter) -> None:
    with pytest.raises(AdapterError, match="--lora-modules needs --enable-lora"):
        make_engine(adapters=(AdapterSource("x", make_adapter("x", 4)),))


def test_two_names_alike(make_engine, make_adapter) -> None:
    adapters = (AdapterSource("x", make_adapter("x", 4)),) * 2
    with pytest.raises(AdapterError, match="--lora-modules: x: two adapters have the name x"):
        make_engine(enable_lora=True, adapters=adapters)
