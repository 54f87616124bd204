"""The process that compile workers are forked from: it has loaded the vocabulary once for all of
them, and one that dies of a constraint has a successor within milliseconds.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

Serve = Callable[[Connection], int]

# Exit codes of a worker. Any other is a failure.
CLOSED = 0  # its pipe was closed
RENEWED = 3  # it holds too much memory, and has answered everything

SHORT_LIFE = 1.0  # seconds; a worker that fails sooner is not replaced at once
FIRST_DELAY = 0.1  # seconds until the next attempt to start one
LONGEST_DELAY = 5.0


class CompileHost:
    """A worker for each pipe: `serve` in a child of this process, which ends with the exit code
    that it returns. Where a worker ends without an answer, the host answers in its place:
    `{"died": number of the signal}` or `{"failed": why}`; and `{"unavailable": why}` as long as no
    worker can be started.
    """

    def __init__(self, serve: Serve, pipes: Sequence[Connection]) -> None:
        self._serve = serve
        self._pipes = pipes
        self._workers: dict[int, Connection] = {}  # by process
        self._born: dict[int, float] = {}  # by process
        self._missing: list[Connection] = []  # pipes without a worker
        self._delay = FIRST_DELAY
        self._next_attempt = -math.inf
        self._lines = b""  # of standard input

    def run(self) -> None:
        """Until standard input ends: then who started this process is gone, or wants it to go. A
        line of it is the number of a pipe whose worker is to be killed.
        """
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        # Without a thread that waits for children: a process with threads should not fork.
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(writing)
        for pipe in self._pipes:
            self._start_worker(pipe)
        for pipe in self._pipes:
            pipe.send_bytes(b"ready")
        stdin = sys.stdin.fileno()
        while True:
            for source in wait([stdin, reading, *self._missing], self._until_next_attempt()):
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
            lived = time.monotonic() - self._born.pop(process_id)
            if os.WIFSIGNALED(status):
                _tell(pipe, {"died": os.WTERMSIG(status)})
            elif (code := os.WEXITSTATUS(status)) == CLOSED:
                continue
            elif code != RENEWED:
                _tell(pipe, {"failed": f"the worker ended with exit code {code}"})
                if lived < SHORT_LIFE:
                    self._postpone(pipe)
                    continue
            self._start_worker(pipe)

    def _until_next_attempt(self) -> float | None:
        return max(0.0, self._next_attempt - time.monotonic()) if self._missing else None

    def _start_missing(self) -> None:
        if self._missing and time.monotonic() >= self._next_attempt:
            missing, self._missing = self._missing, []
            for pipe in missing:
                self._start_worker(pipe)

    def _postpone(self, pipe: Connection) -> None:
        now = time.monotonic()
        lasting = now < self._next_attempt + LONGEST_DELAY  # this is not the first failure
        self._delay = min(2 * self._delay, LONGEST_DELAY) if lasting else FIRST_DELAY
        self._next_attempt = now + self._delay
        self._missing.append(pipe)

    def _start_worker(self, pipe: Connection) -> None:
        try:
            process_id = os.fork()
        except OSError:  # no memory, or no more processes
            self._postpone(pipe)
            return
        if process_id:
            self._workers[process_id] = pipe
            self._born[process_id] = time.monotonic()
            return
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for other in self._pipes:
                if other is not pipe:
                    other.close()
            code = self._serve(pipe)
        finally:
            # Whatever happened, this copy of the host's stack must not go on as a second host.
            sys.stderr.flush()
            os._exit(code)

    def _end(self) -> NoReturn:
        for process_id in self._workers:
            os.kill(process_id, signal.SIGKILL)
        os._exit(0)


def _refuse(pipe: Connection) -> None:
    """Answer a request that no worker is there for."""
    try:
        number = json.loads(pipe.recv_bytes())[0]
    except EOFError:  # the end of standard input will follow
        return
    _tell(pipe, {"number": number, "unavailable": "no worker can be started"})


def _tell(pipe: Connection, answer: dict[str, Any]) -> None:
    pipe.send_bytes(json.dumps(answer).encode())
