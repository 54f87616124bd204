"""Engines of several ranks. In `threads` the other ranks are threads of this process: the same code
over the same sockets, shared memory and gloo, without the seconds that an import of torch takes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from formgate.engine.config import EngineConfig
from formgate.engine.engine import Engine
from formgate.engine.execution import follower
from formgate.engine.execution.runner import ModelRunner
from formgate.engine.ranks.processes import FollowerLaunch


class FollowerThread:
    """A rank where `subprocess.Popen` would be."""

    def __init__(self, launch: FollowerLaunch) -> None:
        # The starter closes its own descriptors, as after a fork.
        launch.control, launch.wake, launch.ring = map(os.dup, launch.descriptors)
        self._launch = launch
        self._code: int | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        control, inbox = follower.connect(self._launch)
        with control, contextlib.closing(inbox):
            self._code = follower.follow(self._launch, control, inbox)

    def wait(self, timeout: float | None = None) -> int:
        self._thread.join(timeout)
        if self._code is None:
            raise subprocess.TimeoutExpired("a rank", timeout or 0.0)
        return self._code

    def kill(self) -> None:
        """A rank that waits for rank 0 ends with its connection."""


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ModelRunner]]:
    """Followers are threads. Gives all their runners, as they are made."""
    runners: list[ModelRunner] = []
    make = follower.ModelRunner

    def keep(*args, **options) -> ModelRunner:
        runners.append(make(*args, **options))
        return runners[-1]

    monkeypatch.setattr(follower, "ModelRunner", keep)
    monkeypatch.setattr("formgate.engine.ranks.leader.start_follower", FollowerThread)
    count = torch.get_num_threads()
    yield runners
    torch.set_num_threads(count)


@pytest.fixture
def engine_of() -> Iterator[Callable[..., Engine]]:
    """An engine over a folder's model, in float32 on the CPU."""
    engines: list[Engine] = []

    def make(folder: Path, **fields) -> Engine:
        options = {
            "model_dir": folder,
            "dtype": "float32",
            "device": "cpu",
            "block_size": 4,
            "max_num_seqs": 8,
            "max_num_batched_tokens": 16,
            "kv_cache_memory_bytes": 1 << 20,
        }
        engine = Engine(
            EngineConfig(**(options | fields)), _no_constraints, progress=lambda *report: None
        )
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()


def _no_constraints(text: str) -> None:
    raise AssertionError(text)
