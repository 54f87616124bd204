"""Console output besides the log: a line when the server is ready, and a progress bar while it
starts, or one line for each stage without a terminal.
"""

from __future__ import annotations

import contextlib
import os
import sys
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from formgate.engine.messages import LoadProgress


def say(line: str, stream: TextIO | None = None) -> None:
    """Print and flush a line, by default on standard output. A stream that fails (a full disk, a
    closed pipe) is replaced by /dev/null."""
    stream = stream or sys.stdout
    try:
        print(line, file=stream, flush=True)
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())  # its buffer would fail again at exit
            os.close(null)


def open_standard_streams() -> None:
    """Open closed standard streams on /dev/null. Otherwise the next file opened would get their
    descriptor, and receive all printed text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


class StartupProgress:
    """Shows LoadProgress messages inside its `with` block and ignores them outside."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._active = False
        self._stage: str | None = None
        self._task = self._bar.add_task("Starting the engine", total=None)

    def __enter__(self) -> StartupProgress:
        self._active = True
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._active = False
        self._bar.stop()

    def show(self, progress: LoadProgress) -> None:
        if not self._active:
            return
        self._bar.update(
            self._task,
            description=progress.stage,
            completed=progress.done,
            total=progress.total or None,
        )
        if self._bar.disable and progress.stage != self._stage:
            say(f"formgate: {progress.stage} ...", sys.stderr)
        self._stage = progress.stage
