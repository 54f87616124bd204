"""Where the engine runs: the device that a config means, and how many CPU threads are worth
starting on it.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from formgate.engine.errors import EngineStartError

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


def usable_cpus() -> int:
    """The cores that this process may run on, and a container's share of them."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CGROUP_CPU_LIMIT.read_text().split()
        cpus = min(cpus, -(-int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup, or "max"
        pass
    return max(cpus, 1)


class CpuThreads:
    """How many cores torch computes on."""

    def __init__(self) -> None:
        # torch counts the machine's cores: in a container with a share of them, its threads would
        # wait for each other at every operation.
        self._all = self._now = min(torch.get_num_threads(), usable_cpus())
        torch.set_num_threads(self._all)

    def leave_one(self, leave: bool) -> None:
        """One core for others, if there are two: a thread that must wait for its core holds up all
        threads at every operation.
        """
        wanted = max(self._all - leave, 1)
        if wanted != self._now:
            torch.set_num_threads(wanted)
            self._now = wanted
