"""A node other than 0 of an engine that spans several: it has no HTTP and no engine, and keeps its
share of the ranks running, which follow node 0's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import FrameType

from formgate.engine.config import EngineConfig
from formgate.engine.ranks.layout import RankLayout
from formgate.engine.ranks.processes import (
    CANNOT_START,
    FollowerLaunch,
    exit_in_words,
    kill,
    start_follower,
    stop,
)
from formgate.gateway.http.shutdown import SIGNALS
from formgate.gateway.serving.console import say

RESTART_DELAY = 0.5  # seconds
POLL_INTERVAL = 0.2  # seconds


def run_headless(config: EngineConfig) -> int:
    """Run this node's ranks until node 0 stops in order or a signal comes; start them again when
    they end otherwise. Returns the exit code.
    """
    stopping = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        stopping.set()

    for number in SIGNALS:
        signal.signal(number, ask)
    layout = RankLayout.of(config)
    ranks = layout.local_ranks
    named = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
    say(
        f"formgate node {layout.node} of {layout.num_nodes}: {named} of {layout.size}, for node 0 "
        f"at {config.master_addr}:{config.master_port}, which serves"
    )
    while True:
        processes = [start_follower(_launch(config, layout, index)) for index in range(len(ranks))]
        code = _first_exit(processes, stopping)
        if code == 0:
            stop(processes)
        kill(processes)
        if stopping.is_set() or code == 0:
            return 0
        if code == CANNOT_START:
            return 1
        say(
            f"formgate: a rank {exit_in_words(code)}; all of this node are started again",
            sys.stderr,
        )
        stopping.wait(RESTART_DELAY)


def _launch(config: EngineConfig, layout: RankLayout, index: int) -> FollowerLaunch:
    return FollowerLaunch(
        rank=layout.local_ranks[index],
        local_rank=index,
        local_size=layout.local_size,
        parent=os.getpid(),
        model_dir=str(config.model_dir),
        master=(config.master_addr, config.master_port),
    )


def _first_exit(processes: Sequence[subprocess.Popen[bytes]], stopping: threading.Event) -> int:
    """Exit code of the first rank that ends; 0 if a signal comes before."""
    while not stopping.wait(POLL_INTERVAL):
        for process in processes:
            if (code := process.poll()) is not None:
                return code
    kill(processes)
    return 0
