"""Processes that compile constraints and validate answers, each behind a pipe: what takes too long,
too much memory, or its process down costs its own request and nothing else.
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

WALL_SECONDS = 20.0  # of one request: a worker has ended by itself long before
KILL_SECONDS = 2.0  # for the host to replace a worker that has not
END_SECONDS = 0.5  # of the host
START_SECONDS = 120.0  # of the workers, their vocabulary included
FIRST_DELAY = 0.5  # seconds until a host that could not start is tried again
LONGEST_DELAY = 30.0

# numpy would start threads, and a process with threads should not fork.
SINGLE_THREADED = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

TOO_LONG = "The constraint takes too long to compile."
TOO_LARGE = "The constraint is too large to compile."
TOO_DEEP = "The constraint is nested too deeply to compile."


class WorkerFailed(Exception):
    """A worker met an exception that is a bug of ours."""


class _HostLost(Exception):
    """The host has ended, or does not answer."""


@dataclass(frozen=True)
class _Host:
    process: subprocess.Popen[bytes]
    pipes: list[Connection]  # one for each worker
    ready: list[bool]

    @property
    def was_ready(self) -> bool:
        return any(self.ready)


class Workers:
    """The workers of one host process. Each is asked by one thread at a time. `command` starts the
    host, as `compile_worker` does; its last arguments will be the numbers of the descriptors that
    the workers are asked through.
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
        """A host that cannot be started is tried again when a worker is needed."""
        with self._lock, contextlib.suppress(OSError):
            self._running()

    @property
    def process_id(self) -> int | None:
        """Of the host."""
        host = self._host
        return None if host is None else host.process.pid

    def ask(self, worker: int, task: str, text: str) -> str:
        """Raises ConstraintError if the text is at fault, ApiError 503 if there is no worker, and
        WorkerFailed.
        """
        for _ in range(2):
            with self._lock:
                try:
                    host = self._running()
                except OSError:
                    raise compiler_unavailable() from None
            try:
                return _result(self._answer(host, worker, task, text))
            except (_HostLost, EOFError, OSError):  # something else has ended it: once more
                self._replace(host)
        raise compiler_unavailable()

    def _answer(self, host: _Host, worker: int, task: str, text: str) -> dict[str, Any]:
        """Raises _HostLost, and EOFError or OSError if nobody is there any more."""
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
        """Raises OSError if the host cannot be started."""
        if self._host is not None and self._host.process.poll() is None:
            return self._host
        if self._closed:
            raise OSError  # the server is stopping
        self._kill()  # nothing is left of it but its standard input
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
            # Its standard input tells it that the server is gone; Ctrl-C is for the server.
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
        """Whoever notices first that the workers are lost; the others find them started anew."""
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
        """Its pipes are not closed but dropped: a thread may still wait at an end of them."""
        host, self._host = self._host, None
        if host is None:
            return
        process = host.process
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # of what could not be written
            process.stdin.close()  # which ends it and its workers
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _received(pipe: Connection, number: int, seconds: float) -> dict[str, Any] | None:
    """The answer to the request of this number; None after so many seconds."""
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
    """Some workers of a host, for one purpose: what is asked in one lane never waits for what is
    asked in another. `observe` is told, from any thread, how many seconds a worker was busy with
    each thing that it was asked.
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
        """As `Workers.ask`. `begins` is called when a worker is free; who is cancelled before that
        has asked nothing.
        """
        if self._room is None:
            self._room = asyncio.Semaphore(self.size)
        room = self._room
        await room.acquire()
        begins()
        worker = self._free.pop()  # the last one that answered: it has the most in its caches
        loop = asyncio.get_running_loop()
        asked = loop.run_in_executor(self._threads, self._timed, worker, task, text)

        def done(_: object) -> None:
            self._free.append(worker)
            room.release()

        # A client that leaves must not free a worker that is still at work.
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
