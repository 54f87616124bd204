"""Finds out that the engine process hangs: it is stopped, deadlocked, or waits for a device that
does not answer. An engine sends an event with each step, and one a second when it is idle, so a
silence is as old as the step under way.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

MAX_TICK = 1.0  # seconds
# A step on the CPU may be long without hanging (a large prefill on few cores), so one that uses
# the processor has this many times the timeout.
WORKING_FACTOR = 10


class EngineWatchdog:
    """Watches one process. `timeout`: seconds that a step may take; 0 turns the watchdog off.

    Time is counted in ticks of this process' event loop and not read from a clock: a suspended
    machine or a frozen container, in which both processes stood still, is no silence.
    """

    def __init__(self, process_id: int, timeout: float) -> None:
        self._process_id = process_id
        self._timeout = timeout
        self._limit = float("inf")  # of silence; a start may take as long as it works
        self._heard = True
        self._silence = 0.0  # seconds without an event
        self._stillness = 0.0  # seconds without an event and without any use of a processor
        self._cpu_ticks = 0

    def heard(self) -> None:
        """An event has arrived."""
        self._heard = True

    def ready(self, device: str) -> None:
        """The engine has started, on `device`. On a GPU a thread that waits for a kernel looks
        busy, so only the silence counts; and no step takes as long as on a CPU."""
        self._limit = self._timeout * (WORKING_FACTOR if device == "cpu" else 1)

    @property
    def hangs(self) -> bool:
        return self._stillness >= self._timeout or self._silence >= self._limit

    async def wait_hung(self) -> str:
        """Until the process hangs. Returns what was seen, in one line."""
        if self._timeout <= 0:
            await asyncio.Event().wait()
        tick = min(MAX_TICK, self._timeout / 10)
        while True:
            await asyncio.sleep(tick)
            self._count(tick)
            if self.hangs:
                return f"The engine process hangs: nothing came from it for {self._silence:.0f} s."

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
    """The state of its main thread, and the clock ticks that all its threads have used."""
    try:
        text = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:  # descriptors have run out, or it is gone, which others notice
        return "R", 0
    fields = text.rpartition(")")[2].split()  # a program's name may hold anything
    return fields[0], int(fields[11]) + int(fields[12])
