"""Starts the ranks of one host, each in a process of its own, and ends them. It imports no torch,
so that a host without rank 0 can supervise its ranks cheaply.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

FOLLOWER_COMMAND = (sys.executable, "-m", "formgate.engine.ranks.rank_process")
STOP_TIMEOUT = 5.0  # seconds for a rank to exit by itself
PR_SET_PDEATHSIG = 1
CANNOT_START = 3  # exit code of a rank whose failure the operator can mend


class FollowerLaunch(msgspec.Struct):
    """A rank's parameters, one argument of JSON. With `control`, `wake` and `ring`, which are
    inherited descriptors, rank 0 is the parent; without them, it listens on `master`.
    """

    rank: int
    local_rank: int
    local_size: int
    parent: int  # process id
    model_dir: str
    master: tuple[str, int] | None = None  # host and port
    control: int | None = None
    wake: int | None = None
    ring: int | None = None

    @property
    def descriptors(self) -> tuple[int, ...]:
        numbers = (self.control, self.wake, self.ring)
        return tuple(number for number in numbers if number is not None)


def start_follower(
    launch: FollowerLaunch, command: Sequence[str] = FOLLOWER_COMMAND
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*command, msgspec.json.encode(launch).decode()],
        stdin=subprocess.DEVNULL,
        pass_fds=launch.descriptors,
    )


def end_with(parent: int) -> None:
    """In a rank's process: leave SIGINT and SIGTERM to the parent, and be killed when it ends, even
    while stopped or inside a driver's call (on Linux; elsewhere a closed connection ends it).
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    for process in processes:
        process.wait()


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until the processes, which were told to stop, have ended; kill those that do not."""
    for process in processes:
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            kill([process])


def exit_in_words(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def model_digest(model_dir: Path) -> str:
    """Ranks of one engine must load one model. Empty if there is no config."""
    with contextlib.suppress(OSError):
        return hashlib.sha256((model_dir / "config.json").read_bytes()).hexdigest()
    return ""


def local_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a stream; a child inherits the second."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
