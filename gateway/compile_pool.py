"""Compiles constraints in worker processes that can be killed: a schema that takes too long, too
much memory, or takes its compiler down costs its own request and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import signal
import subprocess
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

from formgate.constrain.errors import ConstraintError

logger = logging.getLogger(__name__)

WALL_SECONDS = 10.0  # of one constraint: a worker ends by itself after CPU_SECONDS of work
START_SECONDS = 120.0  # of a worker, its vocabulary included
CACHED_BYTES = 64 << 20  # of blueprints
NICENESS = 4
SPARES = 1  # workers ready to take the place of one that had to be killed
REFUSED_SECONDS = 60.0  # for which what was too much is not tried again
MOST_REFUSED = 1_000

Asked = tuple[str, str]  # task and text

TOO_LONG = "The constraint takes too long to compile."
TOO_LARGE = "The constraint is too large to compile."


class CompilePool:
    """`command` starts a worker, as `compile_worker` does; its last argument will be the number
    of the descriptor that it is asked through. `observe` is told, from any thread, how many seconds
    a worker was busy with each thing that it was asked.
    """

    def __init__(
        self, command: Sequence[str], *, workers: int, observe: Callable[[float], None]
    ) -> None:
        self._observe = observe
        self.workers = [Worker(command) for _ in range(workers + SPARES)]
        self._free = self.workers[:]
        self._room: asyncio.Semaphore | None = None
        self._at_once = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="compile")
        self._compiled: OrderedDict[Asked, str] = OrderedDict()
        self._bytes = 0
        self._compiling: dict[Asked, asyncio.Task[str]] = {}
        self._refused: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    def start(self) -> None:
        """Start the workers, so that the first constraint finds one ready."""
        for worker in self.workers:
            worker.start()

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
        # The last one that answered has the most in its caches.
        worker = next((one for one in reversed(self._free) if one.is_ready()), self._free[-1])
        self._free.remove(worker)
        process_id = worker.process_id
        loop = asyncio.get_running_loop()
        asked = loop.run_in_executor(self._threads, self._timed, worker, task, text)

        def done(_: object) -> None:
            # One that has just been started anew comes last.
            self._free.insert(len(self._free) if worker.process_id == process_id else 0, worker)
            room.release()

        # A client that leaves must not free a worker that is still at work.
        asked.add_done_callback(done)
        return await asyncio.shield(asked)

    def _timed(self, worker: Worker, task: str, text: str) -> str:
        started = time.monotonic()
        try:
            return worker.ask(task, text)
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
        for worker in self.workers:
            worker.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


def step_back(process_id: int) -> None:
    """A step of the engine comes first: where it runs on the CPU, every other request waits for it.
    Linux may give each session its fair share and heed niceness within it alone (man 7 sched), so
    the session is told too.
    """
    os.setpriority(os.PRIO_PROCESS, process_id, NICENESS)
    with contextlib.suppress(OSError):
        Path(f"/proc/{process_id}/autogroup").write_text(str(NICENESS), encoding="ascii")


def _digest(asked: Asked) -> bytes:
    """What was too large is not kept."""
    task, text = asked
    return hashlib.sha256(f"{task} {text}".encode()).digest()


class Worker:
    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._ready = False
        self._closed = False

    def start(self) -> None:
        self._pipe, theirs = Pipe()
        with theirs:
            number = theirs.fileno()
            # Its standard input tells it that its parent is gone; Ctrl-C is for the server.
            self._process = subprocess.Popen(
                [*self._command, str(number)],
                stdin=subprocess.PIPE,
                pass_fds=(number,),
                start_new_session=True,
            )
        self._ready = False

    @property
    def process_id(self) -> int | None:
        return None if self._process is None else self._process.pid

    def is_ready(self) -> bool:
        if self._process is None or self._pipe is None or self._process.poll() is not None:
            return False
        return self._ready or self._pipe.poll()

    def ask(self, task: str, text: str) -> str:
        """Raises ConstraintError."""
        if self._process is None or self._process.poll() is not None:
            self.start()
        assert self._process is not None
        assert self._pipe is not None
        process = self._process  # gone from here if the pool is closed meanwhile
        try:
            if not self._ready:
                if not self._pipe.poll(START_SECONDS):
                    raise TimeoutError
                self._pipe.recv_bytes()
                self._ready = True
            self._pipe.send_bytes(json.dumps([task, text]).encode())
            if not self._pipe.poll(WALL_SECONDS):
                raise TimeoutError
            answer = json.loads(self._pipe.recv_bytes())
        except TimeoutError:
            self._replace()
            raise ConstraintError(TOO_LONG, code="schema_too_complex") from None
        except (EOFError, OSError):  # it ran out of time, of memory or of stack
            self._replace()
            message = TOO_LONG if process.returncode == -signal.SIGPROF else TOO_LARGE
            raise ConstraintError(message, code="schema_too_complex") from None
        if "error" in answer:
            raise ConstraintError(**answer["error"])
        result: str = answer["result"]
        return result

    def _replace(self) -> None:
        """Its successor gets ready while a spare one works, and while the engine does."""
        self.kill()
        if not self._closed:
            self.start()
            assert self._process is not None
            step_back(self._process.pid)

    def close(self) -> None:
        self._closed = True
        self.kill()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
