"""Speaks a compile worker's protocol and does what the task's text says. Its first argument is a
file that, as long as it exists, keeps processes from being forked.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from formgate.gateway.processes import compile_worker
from formgate.gateway.processes.compile_host import CompileHost

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
compile_worker.CPU_SECONDS = 0.2
compile_worker.WALL_SECONDS = 1.0
compile_worker.KEPT_BYTES = 8 << 20
forbidden = Path(sys.argv[1])
fork = os.fork


def fork_or_fail():
    if forbidden.exists():
        raise BlockingIOError("Resource temporarily unavailable")
    return fork()


os.fork = fork_or_fail


class Panic(BaseException):
    pass


class Tasks:
    def constraint(self, text):
        while text == "work":
            pass
        if text == "hang":
            time.sleep(60)
        if text == "ignore":
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            time.sleep(60)
        if text == "crash":
            os.abort()
        if text == "exit":
            os._exit(7)
        if text == "raise":
            raise KeyError("secret")
        if text == "panic":
            raise Panic("secret")
        if text == "recurse":
            return self.constraint(text)
        if text == "grow":
            self.kept = bytearray(b"x") * (16 << 20)
        if text.startswith("slow"):
            time.sleep(0.3)
        return f"{os.getpid()} {text}"

    sized_constraint = constraint


serve = partial(compile_worker.serve, Tasks())
CompileHost(serve, [Connection(int(number)) for number in sys.argv[2:]]).run()
