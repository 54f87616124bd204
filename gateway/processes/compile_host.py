"""The process that forks the compile workers. It loads the vocabulary once for all of them, and
replaces a worker that dies of a constraint within milliseconds.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

Taken = Callable[[int], None]  # called with each request's number before its work begins
Serve = Callable[[Connection, Taken], int]

# Exit codes of a worker. Any other is a failure.
CLOSED = 0  # its pipe was closed
RENEWED = 3  # it holds too much memory and has no open request

FIRST_DELAY = 0.1  # seconds until a failed start of a worker is retried
LONGEST_DELAY = 5.0

_NUMBER = struct.Struct("q")
_NONE = -1  # no request


class CompileHost:
    """Keeps a worker for each pipe: a child process that runs `serve` and exits with its result. If
    a worker exits before it has answered, the host answers instead: the request's number with
    `died` (the signal) or `failed` (the reason), or `unavailable` if no worker can be started.
    """

    def __init__(self, serve: Serve, pipes: Sequence[Connection]) -> None:
        self._serve = serve
        self._pipes = pipes
        self._workers: dict[int, Connection] = {}  # by process
        # The last request that each worker took, in shared memory that outlives it.
        self._taken = mmap.mmap(-1, _NUMBER.size * len(pipes))
        self._missing: list[Connection] = []  # pipes without a worker
        self._delay = FIRST_DELAY
        self._next_attempt = -math.inf
        self._lines = b""  # of standard input

    def run(self) -> None:
        """Run until standard input ends: its writer, which started this process, has exited or
        asks it to. A line of input is the number of a pipe whose worker is to be killed.
        """
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        # No thread waits for children: a process with threads should not fork.
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(writing)
        for pipe in self._pipes:
            self._start_worker(pipe)
        for pipe in self._pipes:
            pipe.send_bytes(b"ready")
        stdin = sys.stdin.fileno()
        while True:
            for source in wait([stdin, reading, *self._refusing()], self._until_next_attempt()):
                if isinstance(source, Connection):
                    _refuse(source)
                elif source == stdin:
                    self._obey(os.read(stdin, 4096))
                else:
                    os.read(reading, 4096)
            self._replace_dead()
            self._start_missing()

    def _obey(self, data: bytes) -> None:
        if not data:
            self._end()
        *lines, self._lines = (self._lines + data).split(b"\n")
        for line in lines:
            for process_id, pipe in self._workers.items():
                if pipe is self._pipes[int(line)]:
                    os.kill(process_id, signal.SIGKILL)

    def _replace_dead(self) -> None:
        while self._workers:
            process_id, status = os.waitpid(-1, os.WNOHANG)
            if not process_id:
                return
            pipe = self._workers.pop(process_id)
            code = os.waitstatus_to_exitcode(status)
            if code == CLOSED:
                continue
            number = self._last_taken(pipe)
            if code < 0:
                _tell(pipe, {"number": number, "died": -code})
            elif code != RENEWED:
                _tell(pipe, {"number": number, "failed": f"the worker ended with exit code {code}"})
            if number == _NONE:
                self._postpone(pipe)  # it died before its first request
            else:
                self._start_worker(pipe)

    def _last_taken(self, pipe: Connection) -> int:
        number: int = _NUMBER.unpack_from(self._taken, self._place(pipe))[0]
        return number

    def _take(self, pipe: Connection, number: int) -> None:
        _NUMBER.pack_into(self._taken, self._place(pipe), number)

    def _place(self, pipe: Connection) -> int:
        return _NUMBER.size * self._pipes.index(pipe)

    def _refusing(self) -> Sequence[Connection]:
        """Pipes whose requests are refused, because starting their worker failed repeatedly."""
        return self._missing if self._delay > FIRST_DELAY else ()

    def _until_next_attempt(self) -> float | None:
        return max(0.0, self._next_attempt - time.monotonic()) if self._missing else None

    def _start_missing(self) -> None:
        if self._missing and time.monotonic() >= self._next_attempt:
            missing, self._missing = self._missing, []
            for pipe in missing:
                self._start_worker(pipe)

    def _postpone(self, pipe: Connection) -> None:
        now = time.monotonic()
        if now >= self._next_attempt:
            again = now < self._next_attempt + LONGEST_DELAY
            self._delay = min(2 * self._delay, LONGEST_DELAY) if again else FIRST_DELAY
            self._next_attempt = now + self._delay
        self._missing.append(pipe)

    def _start_worker(self, pipe: Connection) -> None:
        self._take(pipe, _NONE)
        try:
            process_id = os.fork()
        except OSError:  # no memory, or no more processes
            self._postpone(pipe)
            return
        if process_id:
            self._workers[process_id] = pipe
            return
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for other in self._pipes:
                if other is not pipe:
                    other.close()
            code = self._serve(pipe, partial(self._take, pipe))
        finally:
            # In any case, this copy of the host's stack must not continue as a second host.
            sys.stderr.flush()
            os._exit(code)

    def _end(self) -> NoReturn:
        for process_id in self._workers:
            os.kill(process_id, signal.SIGKILL)
        os._exit(0)


def _refuse(pipe: Connection) -> None:
    """Answer a request that has no worker with `unavailable`."""
    try:
        number = json.loads(pipe.recv_bytes())[0]
    except EOFError:  # the end of standard input will follow
        return
    _tell(pipe, {"number": number, "unavailable": "no worker can be started"})


def _tell(pipe: Connection, answer: dict[str, Any]) -> None:
    pipe.send_bytes(json.dumps(answer).encode())
