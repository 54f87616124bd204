"""The process of a rank other than 0: it makes the same runner over its part of the model, and does
what rank 0 says until that ends. It schedules nothing and samples nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
import traceback
from collections import deque
from dataclasses import replace
from pathlib import Path

import msgspec
import torch

from formgate.engine.config import decode_path
from formgate.engine.devices import resolve_device
from formgate.engine.errors import EngineStartError
from formgate.engine.execution.runner import Forward, ModelRunner
from formgate.engine.loading.weights import WeightsError
from formgate.engine.models.spec import UnsupportedModelError
from formgate.engine.ranks.channel import Inbox, LocalInbox, RemoteInbox, SharedRing
from formgate.engine.ranks.connection import send_message, tune, wait_closed
from formgate.engine.ranks.frame import Frame
from formgate.engine.ranks.group import RankGroup, join_ranks, join_store
from formgate.engine.ranks.messages import (
    ClearBlocks,
    Failure,
    Hello,
    LeaderMessage,
    PlaceAdapter,
    PromptLogprobs,
    RunStep,
    Stop,
    Welcome,
)
from formgate.engine.ranks.processes import (
    CANNOT_START,
    FollowerLaunch,
    model_digest,
)

ORPHAN_DELAY = 1.0  # seconds between the end of rank 0 and that of a rank that got no Stop
CONNECT_INTERVAL = 0.5  # seconds

EXPECTED = (EngineStartError, WeightsError, UnsupportedModelError)


class LeaderGone(Exception):
    """Rank 0 has ended without a Stop."""


def main() -> int:
    launch = msgspec.json.decode(sys.argv[1], type=FollowerLaunch)
    control, inbox = connect(launch)
    threading.Thread(target=_end_with_leader, args=(control,), daemon=True).start()
    return follow(launch, control, inbox)


def follow(launch: FollowerLaunch, control: socket.socket, inbox: Inbox) -> int:
    """Do what rank 0 says until it sends Stop. Returns the exit code; a failure that is not rank
    0's own end is reported to it.
    """
    try:
        _say_hello(launch, control)
        _Follower(launch, inbox).run()
    except LeaderGone:
        return 1
    except EXPECTED as error:
        _report(control, Failure(str(error)))
        if launch.master is not None:  # rank 0 has another console
            print(f"formgate: error: rank {launch.rank}: {error}", file=sys.stderr)
        return CANNOT_START
    except Exception as error:
        line = f"{type(error).__name__}: {' '.join(str(error).split())}"
        _report(control, Failure(line, traceback.format_exc()))
        return 1
    return 0


class _Follower:
    def __init__(self, launch: FollowerLaunch, inbox: Inbox) -> None:
        self._launch = launch
        self._inbox = inbox
        self._decoder = msgspec.msgpack.Decoder(LeaderMessage, dec_hook=decode_path)
        # Passes whose prompt logprobs rank 0 will ask for, oldest first.
        self._forwards: deque[Forward] = deque()

    def run(self) -> None:
        welcome = self._decoder.decode(self._receive().message)
        assert isinstance(welcome, Welcome), welcome
        runner = self._make_runner(welcome)
        while True:
            frame = self._receive()
            message = self._decoder.decode(frame.message)
            if isinstance(message, Stop):
                return
            self._follow(runner, message, frame)

    def _receive(self) -> Frame:
        try:
            return self._inbox.receive()
        except (EOFError, OSError) as error:
            raise LeaderGone from error

    def _make_runner(self, welcome: Welcome) -> ModelRunner:
        launch = self._launch
        config = replace(welcome.config, model_dir=Path(launch.model_dir))
        device = resolve_device(config.device)
        if device.type == "cuda":
            if launch.local_rank >= torch.cuda.device_count():
                raise EngineStartError(
                    f"its host has {torch.cuda.device_count()} GPUs for {launch.local_size} ranks"
                )
            torch.cuda.set_device(launch.local_rank)
            device = resolve_device(config.device)
        store = join_store(welcome.store_host, welcome.store_port)
        parallel = join_ranks(
            store,
            launch.rank,
            welcome.size,
            device,
            one_host=launch.local_size == welcome.size,
        )
        group = RankGroup(parallel, launch.local_size, store)
        return ModelRunner(config, progress=_silent, group=group)

    def _follow(self, runner: ModelRunner, message: LeaderMessage, frame: Frame) -> None:
        match message:
            case RunStep():
                runner.leave_a_core(False)
                numbers = runner.next_numbers()
                numbers[: frame.numbers.size] = frame.numbers
                forward = runner.forward(message.step(numbers))
                if forward.prompt_targets:
                    self._forwards.append(forward)
            case PromptLogprobs():
                runner.prompt_logprobs(self._forwards.popleft())
            case ClearBlocks():
                runner.clear_blocks(message.blocks)
            case PlaceAdapter():
                runner.load_adapter(message.slot, message.ranks, None)
            case _:
                raise AssertionError(message)


def _say_hello(launch: FollowerLaunch, control: socket.socket) -> None:
    try:
        send_message(control, Hello(launch.rank, model_digest(Path(launch.model_dir))))
    except OSError as error:
        raise LeaderGone from error


def _silent(stage: str, done: int, total: int) -> None:
    """Rank 0 reports the progress of all."""


def connect(launch: FollowerLaunch) -> tuple[socket.socket, Inbox]:
    """The connection to rank 0, and the way its messages come."""
    if launch.master is not None:
        connection = _reach(*launch.master)
        return connection, RemoteInbox(connection)
    assert launch.control is not None
    assert launch.wake is not None
    assert launch.ring is not None
    inbox = LocalInbox(socket.socket(fileno=launch.wake), SharedRing(launch.ring))
    return socket.socket(fileno=launch.control), inbox


def _reach(host: str, port: int) -> socket.socket:
    """Connect to node 0, however long it takes to start."""
    while True:
        with contextlib.suppress(OSError):
            connection = socket.create_connection((host, port))
            tune(connection)
            return connection
        time.sleep(CONNECT_INTERVAL)


def _end_with_leader(control: socket.socket) -> None:
    wait_closed(control)
    time.sleep(ORPHAN_DELAY)  # the main thread may be about to read a Stop
    os._exit(1)


def _report(control: socket.socket, failure: Failure) -> None:
    with contextlib.suppress(OSError):
        send_message(control, failure)


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # Not `sys.exit`: the threads of a process group may wait for ranks that are gone.
    os._exit(status)
