"""Where the engine runs: the device that a config means, and how many CPU threads are worth
starting on it.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch

from formgate.engine.errors import EngineStartError

# Twice what was seen of threads that had their cores for themselves.
MOST_SWITCHES = 12
MOST_SWITCHES_A_SECOND = 80
FIRST_PAUSE = 1.0  # seconds with fewer threads, before all are tried again
LONGEST_PAUSE = 32.0

CGROUP_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def resolve_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise EngineStartError("--device cuda: no CUDA device can be used; try --device cpu")
    return torch.device(name, torch.cuda.current_device()) if name == "cuda" else torch.device(name)


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy that nobody waits for: from pageable memory CUDA would wait for the whole stream."""
    if device.type == "cpu":
        return values
    return values.pin_memory().to(device, non_blocking=True)


def to_host(values: torch.Tensor) -> torch.Tensor:
    """Good once an event that is recorded after this call has happened."""
    if values.device.type == "cpu":
        return values
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return host.copy_(values, non_blocking=True)


def record_event() -> torch.cuda.Event:
    event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()  # on the current stream, behind everything launched so far
    return event


def usable_cpus() -> int:
    """The cores that this process may run on, and a container's share of them."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CGROUP_CPU_LIMIT.read_text().split()
        cpus = min(cpus, -(-int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup, or "max"
        pass
    return max(cpus, 1)


def involuntary_switches() -> int:
    """How often a thread of this process had to leave its core to somebody else."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


class CpuThreads:
    """How many cores torch computes on: a thread that waits for its core holds up all of them, at
    each of the hundreds of operations of a step, so that one busy neighbour makes a step ten times
    as long. Then fewer threads are quicker.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        switches: Callable[[], int] = involuntary_switches,
    ) -> None:
        self._clock, self._count_switches = clock, switches
        # torch counts the machine's cores, not a container's share of them.
        self._all = self._now = min(torch.get_num_threads(), usable_cpus())
        torch.set_num_threads(self._all)
        self._looked = clock()  # seconds
        self._switches = switches()
        self._fewer = 0  # threads, while there is a neighbour
        self._until = 0.0  # seconds
        self._pause = FIRST_PAUSE

    def begin_step(self, *, leave_one: bool) -> None:
        """`leave_one`: somebody is known to need a core."""
        self._look_for_neighbours()
        wanted = max(self._all - max(self._fewer, leave_one), 1)
        if wanted != self._now:
            torch.set_num_threads(wanted)
            self._now = wanted

    def _look_for_neighbours(self) -> None:
        """By how often this process was pushed from a core since the last look."""
        now, switches = self._clock(), self._count_switches()
        most = MOST_SWITCHES + MOST_SWITCHES_A_SECOND * (now - self._looked)
        crowded = self._now > 1 and switches - self._switches > most
        self._looked, self._switches = now, switches
        if crowded:
            self._fewer = self._all - self._now + 1
            self._until = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        elif self._fewer and now >= self._until:
            self._fewer = 0
        elif not self._fewer and now >= self._until + self._pause:
            self._pause = FIRST_PAUSE
