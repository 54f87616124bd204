"""Processes that compile constraints and validate answers, each behind a pipe. A request that takes
too long, uses too much memory or crashes its process affects no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

from formgate.constrain.errors import ConstraintError
from formgate.gateway.errors import compiler_unavailable

logger = logging.getLogger(__name__)

WALL_SECONDS = 20.0  # of one request; a worker's own limits end it long before
KILL_SECONDS = 2.0  # for the host to replace a worker over that limit
END_SECONDS = 0.5  # of the host
START_SECONDS = 120.0  # of the workers, including the vocabulary
FIRST_DELAY = 0.5  # seconds until a failed start of the host is retried
LONGEST_DELAY = 30.0

# numpy would start threads, and a process with threads should not fork.
SINGLE_THREADED = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

TOO_LONG = "The constraint takes too long to compile."
TOO_LARGE = "The constraint is too large to compile."
TOO_DEEP = "The constraint is nested too deeply to compile."


class WorkerFailed(Exception):
    """A worker raised an unexpected exception: a bug of formgate."""


class _HostLost(Exception):
    """The host has exited or does not answer."""


@dataclass(frozen=True)
class _Host:
    process: subprocess.Popen[bytes]
    pipes: list[Connection]  # one for each worker
    ready: list[bool]

    @property
    def was_ready(self) -> bool:
        return any(self.ready)


class Workers:
    """The workers of one host process. One thread at a time may use a worker. `command` starts the
    host, see `compile_worker`; the descriptors of the workers' pipes are appended to it.
    """

    def __init__(self, command: Sequence[str], count: int) -> None:
        self._command = command
        self._count = count
        self._lock = threading.Lock()
        self._host: _Host | None = None
        self._numbers = itertools.count()
        self._delay = FIRST_DELAY
        self._next_start = -math.inf
        self._closed = False

    def start(self) -> None:
        """Start the host. A failed start is retried when a worker is needed."""
        with self._lock, contextlib.suppress(OSError):
            self._running()

    @property
    def process_id(self) -> int | None:
        """The host's process id, or None."""
        host = self._host
        return None if host is None else host.process.pid

    def ask(self, worker: int, task: str, text: str) -> str:
        """The worker's result for `task`. Raises ConstraintError if `text` is at fault, ApiError
        503 if no worker is available, and WorkerFailed.
        """
        for _ in range(2):
            with self._lock:
                try:
                    host = self._running()
                except OSError:
                    raise compiler_unavailable() from None
            try:
                return _result(self._answer(host, worker, task, text))
            except (_HostLost, EOFError, OSError):  # not this request's fault: retry once
                self._replace(host)
        raise compiler_unavailable()

    def _answer(self, host: _Host, worker: int, task: str, text: str) -> dict[str, Any]:
        """Raises _HostLost, EOFError or OSError if the host is gone."""
        pipe = host.pipes[worker]
        if not host.ready[worker]:
            if not pipe.poll(START_SECONDS):
                raise _HostLost
            pipe.recv_bytes()
            host.ready[worker] = True
            self._delay = FIRST_DELAY
        number = next(self._numbers)
        pipe.send_bytes(json.dumps([number, task, text]).encode())
        if (answer := _received(pipe, number, WALL_SECONDS)) is not None:
            return answer
        assert host.process.stdin is not None
        host.process.stdin.write(b"%d\n" % worker)
        host.process.stdin.flush()
        if (answer := _received(pipe, number, KILL_SECONDS)) is None:
            raise _HostLost
        return {"died": signal.SIGALRM} if "died" in answer else answer

    def _running(self) -> _Host:
        """The running host, started if needed. Raises OSError if it cannot be started."""
        if self._host is not None and self._host.process.poll() is None:
            return self._host
        if self._closed:
            raise OSError  # the server is stopping
        self._kill()  # close what is left of the old host
        if time.monotonic() < self._next_start:
            raise OSError  # as at the last attempt
        try:
            self._host = self._started()
        except OSError as error:
            self._postpone(error.strerror or type(error).__name__)
            raise
        return self._host

    def _started(self) -> _Host:
        pairs: list[tuple[Connection, Connection]] = []
        try:
            for _ in range(self._count):
                pairs.append(Pipe())  # noqa: PERF401 - those before the one that fails are closed
            numbers = [theirs.fileno() for _, theirs in pairs]
            # The end of standard input tells the host to exit. Ctrl-C must reach only the server.
            process = subprocess.Popen(
                [*self._command, *map(str, numbers)],
                stdin=subprocess.PIPE,
                pass_fds=numbers,
                start_new_session=True,
                env=os.environ | SINGLE_THREADED,
            )
        finally:
            for _, theirs in pairs:
                theirs.close()
        return _Host(process, [ours for ours, _ in pairs], [False] * self._count)

    def _postpone(self, why: str) -> None:
        logger.error("The compile workers cannot be started: %s", why)
        self._next_start = time.monotonic() + self._delay
        self._delay = min(2 * self._delay, LONGEST_DELAY)

    def _replace(self, host: _Host) -> None:
        """Kill `host`, unless another thread has replaced it already."""
        with self._lock:
            if self._host is host:
                self._kill()
                if not host.was_ready:
                    self._postpone("their host has ended")

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._kill()

    def _kill(self) -> None:
        """Kill the host. Its pipes are not closed, since a thread may still wait on one."""
        host, self._host = self._host, None
        if host is None:
            return
        process = host.process
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # from unflushed input
            process.stdin.close()  # ends the host and its workers
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _received(pipe: Connection, number: int, seconds: float) -> dict[str, Any] | None:
    """The answer to request `number`, or None after `seconds`."""
    deadline = time.monotonic() + seconds
    while pipe.poll(max(deadline - time.monotonic(), 0.0)):
        answer: dict[str, Any] = json.loads(pipe.recv_bytes())
        if answer["number"] == number:
            return answer
    return None


def _result(answer: dict[str, Any]) -> str:
    if (number := answer.get("died")) is not None:
        out_of_time = number in (signal.SIGPROF, signal.SIGALRM)
        message = TOO_LONG if out_of_time else TOO_LARGE
        raise ConstraintError(message, code="schema_too_complex")
    if "unavailable" in answer:
        raise compiler_unavailable()
    if "failed" in answer:
        raise WorkerFailed(answer["failed"])
    if "error" in answer:
        raise ConstraintError(**answer["error"])
    result: str = answer["result"]
    return result


class Lane:
    """A subset of a host's workers for one purpose, so that requests in one lane never wait for
    those in another. `observe` is called, from any thread, with the seconds each request took.
    """

    def __init__(
        self, workers: Workers, numbers: Iterable[int], observe: Callable[[float], None]
    ) -> None:
        self._workers = workers
        self._free = list(numbers)
        self._observe = observe
        self.size = len(self._free)
        self._room: asyncio.Semaphore | None = None
        self._threads = ThreadPoolExecutor(self.size, thread_name_prefix="compile")

    async def ask(self, task: str, text: str, begins: Callable[[], None] = lambda: None) -> str:
        """As `Workers.ask`. `begins` is called when a worker is free; a request that is cancelled
        earlier is never sent.
        """
        if self._room is None:
            self._room = asyncio.Semaphore(self.size)
        room = self._room
        await room.acquire()
        begins()
        worker = self._free.pop()  # most recently used: its caches are warm
        loop = asyncio.get_running_loop()
        asked = loop.run_in_executor(self._threads, self._timed, worker, task, text)

        def done(_: object) -> None:
            self._free.append(worker)
            room.release()

        # A cancelled caller must not free a worker that is still busy.
        asked.add_done_callback(done)
        return await asyncio.shield(asked)

    def _timed(self, worker: int, task: str, text: str) -> str:
        started = time.monotonic()
        try:
            return self._workers.ask(worker, task, text)
        finally:
            self._observe(time.monotonic() - started)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
