"""Compiles constraints in worker processes that can be killed: a schema that takes too long, too
much memory, or takes its compiler down costs its own request and nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import signal
import subprocess
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection, Pipe
from typing import Any

from formgate.constrain.errors import ConstraintError

WALL_SECONDS = 20.0  # of one constraint: a worker has ended by itself long before
END_SECONDS = 0.5  # of the workers' parent
START_SECONDS = 120.0  # of the workers, their vocabulary included
CACHED_BYTES = 64 << 20  # of blueprints
REFUSED_SECONDS = 60.0  # for which what was too much is not tried again
MOST_REFUSED = 1_000

# numpy would start threads, and a process with threads should not fork.
SINGLE_THREADED = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

Asked = tuple[str, str]  # task and text

TOO_LONG = "The constraint takes too long to compile."
TOO_LARGE = "The constraint is too large to compile."


class CompilePool:
    """`command` starts the workers, as `compile_worker` does; its last arguments will be the
    numbers of the descriptors that they are asked through. `observe` is told, from any thread, how
    many seconds a worker was busy with each thing that it was asked.
    """

    def __init__(
        self, command: Sequence[str], *, workers: int, observe: Callable[[float], None]
    ) -> None:
        self._observe = observe
        self.workers = Workers(command, workers)
        self._free = list(range(workers))
        self._room: asyncio.Semaphore | None = None
        self._at_once = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="compile")
        self._compiled: OrderedDict[Asked, str] = OrderedDict()
        self._bytes = 0
        self._compiling: dict[Asked, asyncio.Task[str]] = {}
        self._refused: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    def start(self) -> None:
        """Start the workers, so that the first constraint finds one ready."""
        self.workers.start()

    def known(self, task: str, spec_text: str) -> str | None:
        """What `compiled` returned before."""
        compiled = self._compiled.get((task, spec_text))
        if compiled is not None:
            self._compiled.move_to_end((task, spec_text))
        return compiled

    async def compiled(self, task: str, spec_text: str) -> str:
        """As `ask`, once for all who want to know it. Raises ConstraintError."""
        compiled = self.known(task, spec_text)
        if compiled is not None:
            return compiled
        asked = task, spec_text
        if (refused := self._refused.get(_digest(asked))) is not None:
            until, message = refused
            if time.monotonic() < until:
                raise ConstraintError(message, code="schema_too_complex")
        compiling = self._compiling.get(asked)
        if compiling is None:
            compiling = asyncio.create_task(self.ask(task, spec_text))
            self._compiling[asked] = compiling
            compiling.add_done_callback(partial(self._remember, asked))
        return await asyncio.shield(compiling)

    async def ask(self, task: str, text: str) -> str:
        """What a worker can do, by its name; see `CompileTasks`. Raises ConstraintError."""
        if self._room is None:
            self._room = asyncio.Semaphore(self._at_once)
        room = self._room
        await room.acquire()
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
            return self.workers.ask(worker, task, text)
        finally:
            self._observe(time.monotonic() - started)

    def _remember(self, asked: Asked, compiling: asyncio.Task[str]) -> None:
        del self._compiling[asked]
        # To look at the exception also keeps asyncio from reporting it where all clients have left.
        if compiling.cancelled():
            return
        if (error := compiling.exception()) is not None:
            if isinstance(error, ConstraintError) and error.message in (TOO_LONG, TOO_LARGE):
                until = time.monotonic() + REFUSED_SECONDS
                self._refused[_digest(asked)] = until, error.message
                if len(self._refused) > MOST_REFUSED:
                    self._refused.popitem(last=False)
            return
        self._compiled[asked] = compiled = compiling.result()
        self._bytes += len(asked[1]) + len(compiled)
        while self._bytes > CACHED_BYTES and len(self._compiled) > 1:
            (_, text), dropped = self._compiled.popitem(last=False)
            self._bytes -= len(text) + len(dropped)

    def close(self) -> None:
        self.workers.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _digest(asked: Asked) -> bytes:
    """What was too large is not kept."""
    task, text = asked
    return hashlib.sha256(f"{task} {text}".encode()).digest()


class Workers:
    """Processes of one parent, each behind a pipe. Each is asked by one thread at a time."""

    def __init__(self, command: Sequence[str], count: int) -> None:
        self._command = command
        self._count = count
        self._lock = threading.Lock()
        self._parent: subprocess.Popen[bytes] | None = None
        self._pipes: list[Connection] = []
        self._ready: list[bool] = []
        self._numbers = itertools.count()
        self._closed = False

    def start(self) -> None:
        with self._lock:
            self._running()

    @property
    def process_id(self) -> int | None:
        """Of their parent."""
        parent = self._parent
        return None if parent is None else parent.pid

    def ask(self, worker: int, task: str, text: str) -> str:
        """Raises ConstraintError."""
        for _ in range(2):
            with self._lock:
                parent = self._running()
                pipe = self._pipes[worker]
            try:
                answer = self._answer(worker, pipe, task, text)
                break
            except TimeoutError:
                self._replace(parent)
                raise ConstraintError(TOO_LONG, code="schema_too_complex") from None
            except (EOFError, OSError):  # something else has ended the parent: once more
                self._replace(parent)
        else:
            raise ConstraintError(TOO_LARGE, code="schema_too_complex")
        if (number := answer.get("died")) is not None:
            out_of_time = number in (signal.SIGPROF, signal.SIGALRM)
            message = TOO_LONG if out_of_time else TOO_LARGE
            raise ConstraintError(message, code="schema_too_complex")
        if "error" in answer:
            raise ConstraintError(**answer["error"])
        result: str = answer["result"]
        return result

    def _answer(self, worker: int, pipe: Connection, task: str, text: str) -> dict[str, Any]:
        """Raises TimeoutError, and EOFError or OSError if nobody is there any more."""
        if not self._ready[worker]:
            if not pipe.poll(START_SECONDS):
                raise TimeoutError
            pipe.recv_bytes()
            self._ready[worker] = True
        while pipe.poll():  # it died of something else, after its last answer
            pipe.recv_bytes()
        number = next(self._numbers)
        pipe.send_bytes(json.dumps([number, task, text]).encode())
        deadline = time.monotonic() + WALL_SECONDS
        while pipe.poll(max(deadline - time.monotonic(), 0.0)):
            answer: dict[str, Any] = json.loads(pipe.recv_bytes())
            if answer.get("number", number) == number:
                return answer
        raise TimeoutError

    def _running(self) -> subprocess.Popen[bytes]:
        if self._parent is not None and self._parent.poll() is None:
            return self._parent
        if self._closed:
            raise ConstraintError("The server is stopping.", code="schema_too_complex")
        self._kill()  # nothing is left of it but its standard input
        # Not closed but dropped: a thread may still wait at an end of the old ones.
        pairs = [Pipe() for _ in range(self._count)]
        self._pipes = [ours for ours, _ in pairs]
        self._ready = [False] * self._count
        numbers = [theirs.fileno() for _, theirs in pairs]
        # Its standard input tells it that its parent is gone; Ctrl-C is for the server.
        self._parent = subprocess.Popen(
            [*self._command, *map(str, numbers)],
            stdin=subprocess.PIPE,
            pass_fds=numbers,
            start_new_session=True,
            env=os.environ | SINGLE_THREADED,
        )
        for _, theirs in pairs:
            theirs.close()
        return self._parent

    def _replace(self, parent: subprocess.Popen[bytes]) -> None:
        """Whoever notices first that the workers are lost; the others find them started anew."""
        with self._lock:
            if self._parent is parent:
                self._kill()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._kill()

    def _kill(self) -> None:
        parent, self._parent = self._parent, None
        if parent is None or parent.stdin is None:
            return
        parent.stdin.close()  # which ends it and its workers
        try:
            parent.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            parent.kill()
            parent.wait()
