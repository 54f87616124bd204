"""Runs the server under a minimal init process when formgate is process 1 of a container. Process 1
has no default signal handlers and inherits every orphan, so this one forwards signals to the server
and reaps children. It imports next to nothing, so that signals work at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType

FORWARDED: tuple[int, ...] = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


def run_as_init(command: list[str]) -> int:
    """Run `command`, a program's path and its arguments, until it exits. Returns its exit code;
    128 + N after signal N."""
    child: int | None = None
    early: list[int] = []  # signals that arrived before the child started

    def forward(number: int, frame: FrameType | None) -> None:
        if child is not None:
            os.kill(child, number)
        else:
            early.append(number)

    for number in FORWARDED:
        signal.signal(number, forward)
    # A process group of its own: otherwise Ctrl-C would reach the server twice.
    child = os.posix_spawn(command[0], command, os.environ, setpgroup=0)
    _give_terminal(child)
    for number in early:
        os.kill(child, number)
    while True:
        process_id, status = os.wait()
        if process_id == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _give_terminal(process_group: int) -> None:
    if not os.isatty(0):
        return
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # sent to a background process that does this
    with contextlib.suppress(OSError):  # the terminal belongs to another session
        os.tcsetpgrp(0, process_group)
