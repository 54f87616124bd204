"""The device that a config names, copies to and from it, and the number of CPU threads that torch
computes on.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch

from formgate.engine.errors import EngineStartError

# Involuntary context switches: twice the number measured for threads that share no core.
MOST_SWITCHES = 12
MOST_SWITCHES_A_SECOND = 80
FIRST_PAUSE = 1.0  # seconds on fewer threads before all are tried again
LONGEST_PAUSE = 32.0

CGROUP_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where available. Raises EngineStartError for CUDA without a usable device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise EngineStartError("--device cuda: no CUDA device can be used; try --device cpu")
    return torch.device(name, torch.cuda.current_device()) if name == "cuda" else torch.device(name)


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy without blocking. The source is pinned first: CUDA copies pageable memory only after
    everything else on the stream.
    """
    if device.type == "cpu":
        return values
    return values.pin_memory().to(device, non_blocking=True)


def to_host(values: torch.Tensor) -> torch.Tensor:
    """Copy without blocking. The copy is valid once an event recorded after this call is done."""
    if values.device.type == "cpu":
        return values
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return host.copy_(values, non_blocking=True)


def record_event() -> torch.cuda.Event:
    """An event that occurs when the current stream has done all work launched so far."""
    event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def usable_cpus() -> int:
    """Cores that this process may run on, limited by its cgroup's CPU quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CGROUP_CPU_LIMIT.read_text().split()
        cpus = min(cpus, -(-int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup, or "max"
        pass
    return max(cpus, 1)


def involuntary_switches() -> int:
    """Number of times that the kernel preempted a thread of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


class CpuThreads:
    """Lowers torch's thread count while other processes use the cores.

    Each of the hundreds of operations of a step waits for its slowest thread. One busy neighbour on
    one core makes a step ten times as long; one thread less is then faster.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        switches: Callable[[], int] = involuntary_switches,
        *,
        sharers: int = 1,
    ) -> None:
        """`sharers`: processes that compute on equal shares of the cores, this one included."""
        self._clock, self._count_switches = clock, switches
        # torch counts the machine's cores and ignores a container's quota.
        share = max(usable_cpus() // sharers, 1)
        self._all = self._now = min(torch.get_num_threads(), share)
        torch.set_num_threads(self._all)
        self._last_check = clock()  # seconds
        self._switches = switches()
        self._num_spared = 0  # threads that are off because a neighbour needs their cores
        self._until = 0.0  # seconds; all threads are tried again then
        self._pause = FIRST_PAUSE

    def begin_step(self, *, leave_one: bool) -> None:
        """Set the thread count for a step. `leave_one`: keep one core free in any case."""
        self._detect_neighbours()
        wanted = max(self._all - max(self._num_spared, leave_one), 1)
        if wanted != self._now:
            torch.set_num_threads(wanted)
            self._now = wanted

    def _detect_neighbours(self) -> None:
        """Spare one more core if the kernel preempted this process too often since the last call;
        use all cores again after a pause, which doubles each time.
        """
        now, switches = self._clock(), self._count_switches()
        most = MOST_SWITCHES + MOST_SWITCHES_A_SECOND * (now - self._last_check)
        crowded = self._now > 1 and switches - self._switches > most
        self._last_check, self._switches = now, switches
        if crowded:
            self._num_spared = self._all - self._now + 1
            self._until = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        elif self._num_spared and now >= self._until:
            self._num_spared = 0
        elif not self._num_spared and now >= self._until + self._pause:
            self._pause = FIRST_PAUSE
