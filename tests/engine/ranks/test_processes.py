"""A rank's process never outlives its parent, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

# A node without rank 0, whose rank waits for a node 0 that never comes.
PARENT = """
import os, signal
from formgate.engine.ranks.processes import FollowerLaunch, start_follower
launch = FollowerLaunch(1, 0, 1, os.getpid(), "none", master=("127.0.0.1", 9))
print(start_follower(launch).pid, flush=True)
signal.pause()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own signal is Linux's")
@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_a_rank_ends_with_its_killed_parent(stopped: bool) -> None:
    """Also while it imports torch, and while it is stopped."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    rank = int(parent.stdout.readline())
    if stopped:
        wait_until_ready_to_die(rank)
        os.kill(rank, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(3000):
        if not is_running(rank):
            return
        threading.Event().wait(0.01)
    raise AssertionError("the rank outlives its parent")


def wait_until_ready_to_die(process: int) -> None:
    """SIGTERM is ignored once the process is tied to its parent."""
    for _ in range(3000):
        ignored = Path(f"/proc/{process}/status").read_text().split("SigIgn:")[1].split()[0]
        if int(ignored, 16) >> (signal.SIGTERM - 1) & 1:
            return
        threading.Event().wait(0.01)
    raise AssertionError("the rank does not start")


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
