"""How many threads compute beside a neighbour that is busy on the same cores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from formgate.engine import devices
from formgate.engine.devices import FIRST_PAUSE, CpuThreads

STEP = 0.5  # seconds; one that was held up
PUSHED_ASIDE = 1000  # times in a step


class Machine:
    """Its clock, and how often its threads had to leave their cores."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.switches = 0

    def begin_step(
        self, threads: CpuThreads, pushed_aside: int = 0, *, leave_one: bool = False
    ) -> int:
        """How many threads it computes on, after a step in which they were pushed aside."""
        self.seconds += STEP
        self.switches += pushed_aside
        threads.begin_step(leave_one=leave_one)
        return torch.get_num_threads()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    monkeypatch.setattr(devices, "usable_cpus", lambda: 3)
    yield Machine()
    torch.set_num_threads(threads)


def started(machine: Machine) -> CpuThreads:
    return CpuThreads(lambda: machine.seconds, lambda: machine.switches)


def test_a_container_share_of_the_cores(machine: Machine) -> None:
    started(machine)
    assert torch.get_num_threads() == 3


def test_a_core_is_left_to_who_is_known_to_need_one(machine: Machine) -> None:
    threads = started(machine)
    assert machine.begin_step(threads, leave_one=True) == 2
    assert machine.begin_step(threads) == 3


def test_a_few_switches_are_no_neighbour(machine: Machine) -> None:
    threads = started(machine)
    assert machine.begin_step(threads, 10) == 3
    machine.seconds += 10  # a long prompt
    assert machine.begin_step(threads, 400) == 3


def test_a_neighbour_gets_a_core_and_a_second_one_another(machine: Machine) -> None:
    threads = started(machine)
    assert machine.begin_step(threads, PUSHED_ASIDE) == 2
    assert machine.begin_step(threads, PUSHED_ASIDE) == 1
    assert machine.begin_step(threads, PUSHED_ASIDE, leave_one=True) == 1


def test_all_threads_are_tried_again_after_a_pause_that_grows(machine: Machine) -> None:
    def steps_with_fewer() -> int:
        steps = 0
        while machine.begin_step(threads) < 3:
            steps += 1
        return steps

    threads = started(machine)
    pauses = []
    for _ in range(8):
        machine.begin_step(threads, PUSHED_ASIDE)
        pauses.append(1 + steps_with_fewer())
    assert [steps * STEP for steps in pauses] == [1, 2, 4, 8, 16, 32, 32, 32]
    for _ in range(200):  # the neighbour is gone for good
        machine.begin_step(threads)
    machine.begin_step(threads, PUSHED_ASIDE)
    assert (1 + steps_with_fewer()) * STEP == FIRST_PAUSE
