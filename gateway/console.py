"""What the operator sees in the terminal while the server starts: a progress bar, or one line for
each stage where no terminal is.
"""

from __future__ import annotations

import logging
import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from formgate.engine.messages import LoadProgress


def set_up_logging() -> None:
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(levelname)s %(asctime)s %(message)s",
        datefmt="%m-%d %H:%M:%S",
    )
    for noisy in ("httpx", "httpcore", "uvicorn", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class StartupProgress:
    """Shows LoadProgress messages between `with` and its end, and drops them outside."""

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
            print(f"formgate: {progress.stage} ...", file=sys.stderr, flush=True)
        self._stage = progress.stage
