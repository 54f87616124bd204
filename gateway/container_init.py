"""The server as the first process of a container. Process 1 has no default signal handlers, and
inherits every orphan; so it runs the server as its child, passes signals on, and reaps. It imports
next to nothing, so that signals work from the first moment.
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
    """Run `command`, a program's path and its arguments, until it ends. Returns its exit code, as a
    shell tells it."""
    child: int | None = None
    early: list[int] = []  # signals that came before there was a child

    def forward(number: int, frame: FrameType | None) -> None:
        if child is not None:
            os.kill(child, number)
        else:
            early.append(number)

    for number in FORWARDED:
        signal.signal(number, forward)
    # A group of its own: the terminal's Ctrl-C must not reach it twice.
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
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # of whoever changes this from the background
    with contextlib.suppress(OSError):  # the terminal belongs to another session
        os.tcsetpgrp(0, process_group)
