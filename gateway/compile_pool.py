"""Compiles constraints in worker processes that can be killed: a schema that takes too long, too
much memory, or takes its compiler down costs its own request and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection, Pipe

from formgate.constrain.errors import ConstraintError

logger = logging.getLogger(__name__)

COMPILE_SECONDS = 1.5  # of one constraint
START_SECONDS = 120.0  # of a worker, its vocabulary included
CACHED_BYTES = 64 << 20  # of blueprints

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
        self._workers = [_Worker(command) for _ in range(workers)]
        self._free: asyncio.LifoQueue[_Worker] | None = None
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="compile")
        self._compiled: OrderedDict[Asked, str] = OrderedDict()
        self._bytes = 0
        self._compiling: dict[Asked, asyncio.Task[str]] = {}

    def start(self) -> None:
        """Start the workers, so that the first constraint finds one ready."""
        for worker in self._workers:
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
        compiling = self._compiling.get(asked)
        if compiling is None:
            compiling = asyncio.create_task(self.ask(task, spec_text))
            self._compiling[asked] = compiling
            compiling.add_done_callback(partial(self._remember, asked))
        return await asyncio.shield(compiling)

    async def ask(self, task: str, text: str) -> str:
        """What a worker can do, by its name; see `CompileTasks`. Raises ConstraintError."""
        if self._free is None:
            self._free = asyncio.LifoQueue()
            for worker in self._workers:
                self._free.put_nowait(worker)
        worker = await self._free.get()
        loop = asyncio.get_running_loop()
        asked = loop.run_in_executor(self._threads, self._timed, worker, task, text)
        free = self._free

        def done(_: object) -> None:
            free.put_nowait(worker)

        # A client that leaves must not free a worker that is still at work.
        asked.add_done_callback(done)
        return await asyncio.shield(asked)

    def _timed(self, worker: _Worker, task: str, text: str) -> str:
        started = time.monotonic()
        try:
            return worker.ask(task, text)
        finally:
            self._observe(time.monotonic() - started)

    def _remember(self, asked: Asked, compiling: asyncio.Task[str]) -> None:
        del self._compiling[asked]
        # To look at the exception also keeps asyncio from reporting it where all clients have left.
        if compiling.cancelled() or compiling.exception() is not None:
            return
        self._compiled[asked] = compiled = compiling.result()
        self._bytes += len(asked[1]) + len(compiled)
        while self._bytes > CACHED_BYTES and len(self._compiled) > 1:
            (_, text), dropped = self._compiled.popitem(last=False)
            self._bytes -= len(text) + len(dropped)

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Worker:
    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._ready = False

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

    def ask(self, task: str, text: str) -> str:
        """Raises ConstraintError."""
        if self._process is None or self._process.poll() is not None:
            self.start()
        assert self._pipe is not None
        try:
            if not self._ready:
                if not self._pipe.poll(START_SECONDS):
                    raise TimeoutError
                self._pipe.recv_bytes()
                self._ready = True
            self._pipe.send_bytes(json.dumps([task, text]).encode())
            if not self._pipe.poll(COMPILE_SECONDS):
                raise TimeoutError
            answer = json.loads(self._pipe.recv_bytes())
        except TimeoutError:
            self.kill()
            raise ConstraintError(TOO_LONG, code="schema_too_complex") from None
        except (EOFError, OSError):  # it ran out of memory or of stack
            self.kill()
            raise ConstraintError(TOO_LARGE, code="schema_too_complex") from None
        if "error" in answer:
            raise ConstraintError(**answer["error"])
        result: str = answer["result"]
        return result

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
