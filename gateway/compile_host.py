"""The process that compile workers are forked from: it has loaded the vocabulary once for all of
them, and one that dies of a constraint has a successor within milliseconds.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import NoReturn

Serve = Callable[[Connection], None]


class CompileHost:
    """A worker for each pipe: `serve` in a child of this process. Where a child is killed, the host
    answers in its place, `{"died": number of the signal}`.
    """

    def __init__(self, serve: Serve, pipes: Sequence[Connection]) -> None:
        self._serve = serve
        self._pipes = pipes
        self._workers: dict[int, Connection] = {}  # by process

    def run(self) -> None:
        """Until standard input ends: then who started this process is gone, or wants it to go."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        # Without a thread that waits for children: a process with threads should not fork.
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(writing)
        for pipe in self._pipes:
            self._fork(pipe)
        for pipe in self._pipes:
            pipe.send_bytes(b"ready")
        with selectors.DefaultSelector() as selector:
            selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
            selector.register(reading, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if not os.read(key.fd, 4096):
                        self._end()
                self._replace_dead()

    def _replace_dead(self) -> None:
        while self._workers:
            process_id, status = os.waitpid(-1, os.WNOHANG)
            if not process_id:
                return
            pipe = self._workers.pop(process_id)
            if os.WIFSIGNALED(status):
                pipe.send_bytes(json.dumps({"died": os.WTERMSIG(status)}).encode())
                self._fork(pipe)

    def _fork(self, pipe: Connection) -> None:
        process_id = os.fork()
        if process_id:
            self._workers[process_id] = pipe
            return
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for other in self._pipes:
                if other is not pipe:
                    other.close()
            self._serve(pipe)
        finally:
            # Whatever happened, this copy of the host's stack must not go on as a second host.
            sys.stderr.flush()
            os._exit(0)

    def _end(self) -> NoReturn:
        for process_id in self._workers:
            os.kill(process_id, signal.SIGKILL)
        os._exit(0)
