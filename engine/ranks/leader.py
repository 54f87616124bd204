"""Rank 0's side of the ranks: it starts those of its host, waits for those of other hosts, sends
all of them each step, and notices when one is gone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import subprocess
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from formgate.engine.config import EngineConfig
from formgate.engine.devices import resolve_device
from formgate.engine.errors import EngineStartError
from formgate.engine.ranks.channel import LocalReader, Outbox, SharedRing
from formgate.engine.ranks.connection import close_all, listen, receive_message, tune
from formgate.engine.ranks.frame import NO_NUMBERS
from formgate.engine.ranks.group import RankGroup, join_ranks, make_store
from formgate.engine.ranks.layout import LOOPBACK, RankLayout
from formgate.engine.ranks.messages import (
    Failure,
    FollowerMessage,
    Hello,
    LeaderMessage,
    Stop,
    Welcome,
)
from formgate.engine.ranks.processes import (
    FollowerLaunch,
    exit_in_words,
    kill,
    local_pair,
    model_digest,
    start_follower,
    stop,
)

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]

POLL_INTERVAL = 0.5  # seconds between reports of progress
HELLO_TIMEOUT = 10.0  # seconds for a connected peer to say who it is
LAST_WORDS = 1.0  # seconds for a lost rank's reason to arrive
GRACE = 2.0  # seconds for the engine's thread to report a lost rank before the process is ended


class RankLost(RuntimeError):
    """Another rank is gone. The message is one line for the operator."""


@dataclass
class Follower:
    rank: int
    control: socket.socket  # a rank's Hello and Failure come here; its end is the rank's end
    process: subprocess.Popen[bytes] | None = None  # None: on another host
    wake: socket.socket | None = None


@dataclass
class Ranks:
    """All other ranks. `on_lost` is called, in a thread, some time after a rank is lost: the
    engine's own thread may wait for it on the device for ever.
    """

    config: EngineConfig
    on_lost: Callable[[str], None] | None = None
    followers: list[Follower] = field(default_factory=list)
    _ring: SharedRing = field(default_factory=SharedRing.create)
    _lost: str | None = None
    _is_lost: threading.Event = field(default_factory=threading.Event)
    _first: threading.Lock = field(default_factory=threading.Lock)  # the first loss is the reason
    _closed: threading.Event = field(default_factory=threading.Event)

    def start(self, progress: Progress) -> RankGroup:
        """Start the ranks and join their group. Raises EngineStartError."""
        layout = RankLayout.of(self.config)
        assert layout.node == 0
        device = resolve_device(self.config.device)
        check_devices(layout, device)
        try:
            for rank in layout.local_ranks[1:]:
                self.followers.append(self._start_local(rank, layout))
            self._await_local(progress)
            self._watch(self.followers)
            if layout.remote_ranks:
                self._accept_remote(layout, progress)
            return self._join(layout, device)
        except BaseException as error:
            reason = self.lost(LAST_WORDS) if isinstance(error, RuntimeError) else None
            self.kill()
            if reason is not None:
                raise EngineStartError(reason) from error
            raise

    def allocate(self, max_numbers: int) -> None:
        """Size the shared memory for steps of up to `max_numbers` int64 numbers."""
        self._ring.allocate(8 * max_numbers + (1 << 16))

    def send(self, message: LeaderMessage, numbers: NDArray[np.int64] = NO_NUMBERS) -> None:
        """Send to all other ranks. Raises RankLost."""
        try:
            self._outbox.send(message, numbers)
        except (OSError, EOFError) as error:
            raise RankLost(self.lost(LAST_WORDS) or "The engine lost a rank.") from error

    def lost(self, wait: float = 0.0) -> str | None:
        """Why a rank is gone; None if none is. Waits up to `wait` seconds for one to go."""
        if wait:
            self._is_lost.wait(wait)
        return self._lost

    def close(self) -> None:
        """End all ranks in order."""
        if self._closed.is_set():
            return
        self._closed.set()
        with contextlib.suppress(OSError, EOFError):
            self._outbox.send(Stop())
        stop(self._processes)
        self._close_sockets()

    def kill(self) -> None:
        """End all ranks at once."""
        if self._closed.is_set():
            return
        self._closed.set()
        kill(self._processes)
        self._close_sockets()

    @property
    def _processes(self) -> list[subprocess.Popen[bytes]]:
        return [one.process for one in self.followers if one.process is not None]

    def _close_sockets(self) -> None:
        for one in self.followers:
            # A thread may wait in `recv`, which closing alone would not end.
            with contextlib.suppress(OSError):
                one.control.shutdown(socket.SHUT_RDWR)
            close_all(one.control, *([one.wake] if one.wake else []))
        self._ring.close()

    def _start_local(self, rank: int, layout: RankLayout) -> Follower:
        control, their_control = local_pair()
        wake, their_wake = local_pair()
        launch = FollowerLaunch(
            rank,
            rank,
            layout.local_size,
            os.getpid(),
            str(self.config.model_dir),
            control=their_control.fileno(),
            wake=their_wake.fileno(),
            ring=self._ring.descriptor,
        )
        with their_control, their_wake:
            return Follower(rank, control, start_follower(launch), wake)

    def _await_local(self, progress: Progress) -> None:
        """Wait until each rank of this host has said Hello."""
        waiting = {one.control: one for one in self.followers}
        while waiting:
            progress("starting ranks", len(self.followers) - len(waiting), len(self.followers))
            readable, _, _ = select.select(list(waiting), [], [], POLL_INTERVAL)
            for control in readable:
                one = waiting.pop(control)
                try:
                    message = _read(control)
                except (EOFError, OSError):
                    raise EngineStartError(_end_in_words(one)) from None
                if isinstance(message, Failure):
                    raise EngineStartError(_failure_in_words(one, message))

    def _accept_remote(self, layout: RankLayout, progress: Progress) -> None:
        """Wait for the ranks of all other hosts. One that comes again takes its own place."""
        host, port = self.config.master_addr, self.config.master_port
        remote: dict[int, Follower] = {}
        with _listening(host, port) as listener:
            listener.settimeout(POLL_INTERVAL)
            while len(remote) < len(layout.remote_ranks):
                progress("waiting for other nodes", len(remote), len(layout.remote_ranks))
                if self._lost is not None:
                    raise EngineStartError(self._lost)
                with contextlib.suppress(TimeoutError):
                    connection, _ = listener.accept()
                    rank = self._identify(connection, layout)
                    if rank is None:  # not one of ours
                        connection.close()
                    elif rank in remote:
                        remote[rank].control.close()
                        remote[rank].control = connection
                    else:
                        remote[rank] = Follower(rank, connection)
                        self.followers.append(remote[rank])
        self._watch(remote.values())

    def _identify(self, connection: socket.socket, layout: RankLayout) -> int | None:
        """The rank at the other end; None if there is none. Raises EngineStartError if it has
        another model.
        """
        hello = _greeting(connection)
        if hello is None or hello.rank not in layout.remote_ranks:
            return None
        if hello.model != model_digest(self.config.model_dir):
            connection.close()
            raise EngineStartError(
                f"Node {hello.rank // layout.local_size} serves another model than node 0 (their "
                "config.json differ): name the same model on each"
            )
        return hello.rank

    def _join(self, layout: RankLayout, device: torch.device) -> RankGroup:
        host = LOOPBACK if layout.num_nodes == 1 else self.config.master_addr
        store = make_store(listen(host, 0))
        self._outbox = Outbox(
            self._ring,
            [LocalReader(one.wake) for one in self.followers if one.wake is not None],
            [one.control for one in self.followers if one.wake is None],
        )
        self.send(Welcome(self.config, layout.size, host, store.port))
        parallel = join_ranks(store, 0, layout.size, device, one_host=layout.num_nodes == 1)
        return RankGroup(parallel, layout.local_size, store, self.lost)

    def _watch(self, followers: Iterable[Follower]) -> None:
        for one in followers:
            name = f"watch-rank-{one.rank}"
            threading.Thread(target=self._watch_one, args=(one,), name=name, daemon=True).start()

    def _watch_one(self, one: Follower) -> None:
        failure: Failure | None = None
        try:
            message = _read(one.control)
            failure = message if isinstance(message, Failure) else None
        except (OSError, EOFError, ValueError, msgspec.MsgspecError):
            pass
        if failure is not None and failure.traceback is not None:
            # Perhaps only because another rank is gone, which is noticed at once.
            self._is_lost.wait(LAST_WORDS / 2)
        with self._first:
            if self._closed.is_set() or self._is_lost.is_set():
                return  # ended by us, or by the loss of another rank
            self._lost = _end_in_words(one) if failure is None else _failure_in_words(one, failure)
            self._is_lost.set()
        if not self._closed.wait(GRACE) and self.on_lost is not None:
            self.on_lost(self._lost)


def check_devices(layout: RankLayout, device: torch.device) -> None:
    """Raises EngineStartError if this host has fewer GPUs than ranks. Ranks share a CPU."""
    if device.type != "cuda":
        return
    gpus = torch.cuda.device_count()
    if gpus < layout.local_size:
        raise EngineStartError(
            f"--tensor-parallel-size {layout.size} needs {layout.local_size} GPUs on each node; "
            f"this one has {gpus}: lower it to {gpus * layout.num_nodes}"
        )


def _read(control: socket.socket) -> FollowerMessage:
    message: FollowerMessage = msgspec.msgpack.decode(
        receive_message(control), type=FollowerMessage
    )
    return message


def _greeting(connection: socket.socket) -> Hello | None:
    """The peer's first message; None if it is no rank's."""
    connection.settimeout(HELLO_TIMEOUT)
    try:
        message = _read(connection)
    except (OSError, EOFError, ValueError, msgspec.MsgspecError):
        return None
    connection.settimeout(None)
    tune(connection)
    return message if isinstance(message, Hello) else None


def _listening(host: str, port: int) -> socket.socket:
    try:
        return listen(host, port)
    except OSError as error:
        raise EngineStartError(
            f"Node 0 cannot listen on {host}:{port} ({error.strerror}): --master-addr must be an "
            "address of this host, and --master-port a free port"
        ) from error


def _failure_in_words(one: Follower, failure: Failure) -> str:
    if failure.traceback is not None:
        logger.error("Rank %d failed:\n%s", one.rank, failure.traceback)
    return f"Rank {one.rank}: {failure.message}"


def _end_in_words(one: Follower) -> str:
    if one.process is None:
        return f"The engine lost rank {one.rank}: its node ended it or cannot be reached."
    try:
        code = one.process.wait(LAST_WORDS)
    except subprocess.TimeoutExpired:
        return f"The engine lost rank {one.rank}."
    return f"The engine lost rank {one.rank}: its process {exit_in_words(code)}."
