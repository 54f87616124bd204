"""Detects that a process hangs: it is stopped, deadlocked, or waits for a dead device. A process
that is watched tells that it is alive: an engine sends an event after each step, and one per second
when idle, so the time since the last event is the age of the current step; an HTTP process sends a
line per second from its event loop.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

MAX_TICK = 1.0  # seconds
# A step on the CPU may be long without hanging (a large prefill on few cores). While a process uses
# the processor, its timeout is multiplied by this.
WORKING_FACTOR = 10


class ProcessWatchdog:
    """Watches one process. `timeout`: limit of its silence in seconds; 0 turns the watchdog off.
    `name` starts the sentence that reports it.

    Counts ticks of this process' event loop instead of reading a clock, so that the time of a
    suspended machine or a frozen container does not count.
    """

    def __init__(self, process_id: int, timeout: float, name: str = "The engine process") -> None:
        self._process_id = process_id
        self._timeout = timeout
        self._name = name
        self._limit = float("inf")  # of silence; a start has no limit while it uses the CPU
        self._heard = True
        self._silence = 0.0  # seconds without a sign of life
        self._stillness = 0.0  # seconds without a sign of life and without CPU use
        self._cpu_ticks = 0

    def heard(self) -> None:
        """Record a sign of life."""
        self._heard = True

    def ready(self, device: str) -> None:
        """Record that the process has started and works on `device`. On a GPU a thread that waits
        for a kernel looks busy, so CPU use does not extend the limit."""
        self._limit = self._timeout * (WORKING_FACTOR if device == "cpu" else 1)

    @property
    def hangs(self) -> bool:
        return self._stillness >= self._timeout or self._silence >= self._limit

    async def wait_hung(self) -> str:
        """Wait until the process hangs. Returns the symptom in one line."""
        if self._timeout <= 0:
            await asyncio.Event().wait()
        tick = min(MAX_TICK, self._timeout / 10)
        while True:
            await asyncio.sleep(tick)
            self._count(tick)
            if self.hangs:
                return f"{self._name} hangs: nothing came from it for {self._silence:.0f} s."

    def _count(self, tick: float) -> None:
        if self._heard:
            self._heard = False
            self._silence = self._stillness = 0.0
            return
        self._silence += tick
        state, cpu_ticks = _process_status(self._process_id)
        works = state in ("R", "D") or cpu_ticks > self._cpu_ticks
        self._cpu_ticks = cpu_ticks
        self._stillness = 0.0 if works else self._stillness + tick


def _process_status(process_id: int) -> tuple[str, int]:
    """The state of the main thread, and the CPU time of all threads in clock ticks."""
    try:
        text = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:  # out of descriptors, or it has exited, which the supervisor notices
        return "R", 0
    fields = text.rpartition(")")[2].split()  # a program's name may hold any character
    return fields[0], int(fields[11]) + int(fields[12])
