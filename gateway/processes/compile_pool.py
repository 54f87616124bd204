"""Compiles constraints in worker processes, once for all requests that need them, and caches the
results. The queue for a worker is bounded in number and bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from formgate.constrain.errors import ConstraintError
from formgate.gateway.errors import compile_queue_full
from formgate.gateway.processes.compile_workers import TOO_LARGE, TOO_LONG, Lane, Workers

CACHED_BYTES = 64 << 20  # of constraints
REFUSED_SECONDS = 60.0  # before a constraint that was too costly is tried again
MOST_REFUSED = 1_000
MOST_QUEUED = 1_000  # constraints that wait for a worker
QUEUED_BYTES = 64 << 20  # of their texts
CHECKERS = 1  # workers for the last validation of answers
MOST_RETRY_SECONDS = 60

Asked = tuple[str, str]  # task and text


@dataclass(slots=True, eq=False)
class _Compile:
    """A compile that waits for a worker or runs."""

    asked: Asked
    waiting: int = 0  # requests that wait for the result
    queued: bool = True


class CompilePool:
    """`command` and `observe` are those of `Workers` and `Lane`."""

    def __init__(
        self, command: Sequence[str], *, workers: int, observe: Callable[[float], None]
    ) -> None:
        self._observe = observe
        self.workers = Workers(command, workers + CHECKERS)
        self.compiles = Lane(self.workers, range(workers), self._observed)
        self._checks = Lane(self.workers, range(workers, workers + CHECKERS), lambda seconds: None)
        self._queued = 0
        self._queued_bytes = 0
        self._pace = 0.0  # seconds of a compile, moving average
        self._compiled: OrderedDict[Asked, str] = OrderedDict()
        self._bytes = 0
        self._compiling: dict[Asked, tuple[_Compile, asyncio.Task[str]]] = {}
        self._refused: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    def start(self) -> None:
        """Start the workers, so that the first constraint finds one ready."""
        self.workers.start()

    def known(self, task: str, spec_text: str) -> str | None:
        """The cached result of `compiled`, or None."""
        compiled = self._compiled.get((task, spec_text))
        if compiled is not None:
            self._compiled.move_to_end((task, spec_text))
        return compiled

    async def compiled(self, task: str, spec_text: str) -> str:
        """The result of `task`, a method of `CompileTasks`, for `spec_text`; computed once for all
        callers. Dropped if all of them are cancelled before it starts. Raises ConstraintError,
        ApiError 429 or 503, and WorkerFailed.
        """
        compiled = self.known(task, spec_text)
        if compiled is not None:
            return compiled
        asked = task, spec_text
        if self._refused and (refused := self._refused.get(_digest(asked))) is not None:
            until, message = refused
            if time.monotonic() < until:
                raise ConstraintError(message, code="schema_too_complex")
        compiling, compile_task = self._compiling.get(asked) or self._begun(asked)
        compiling.waiting += 1
        try:
            return await asyncio.shield(compile_task)
        finally:
            compiling.waiting -= 1
            if compiling.waiting == 0 and compiling.queued:
                compile_task.cancel()
                self._forget(compiling)

    async def check(self, task: str, text: str) -> str:
        """The result of `task` in a worker of the last validation; it delays no compile. Raises as
        `compiled` does.
        """
        return await self._checks.ask(task, text)

    def _begun(self, asked: Asked) -> tuple[_Compile, asyncio.Task[str]]:
        """Raises ApiError 429."""
        kind, text = asked
        num_bytes = sys.getsizeof(text)
        if self._queued >= MOST_QUEUED or self._queued_bytes + num_bytes > QUEUED_BYTES:
            seconds = self._queued * self._pace / self.compiles.size
            raise compile_queue_full(retry_after=max(1, min(round(seconds), MOST_RETRY_SECONDS)))
        self._queued += 1
        self._queued_bytes += num_bytes
        compiling = _Compile(asked)
        leave = partial(self._leave_queue, compiling)
        task = asyncio.create_task(self.compiles.ask(kind, text, leave))
        task.add_done_callback(partial(self._remember, compiling))
        self._compiling[asked] = compiling, task
        return compiling, task

    def _leave_queue(self, compiling: _Compile) -> None:
        if compiling.queued:
            compiling.queued = False
            self._queued -= 1
            self._queued_bytes -= sys.getsizeof(compiling.asked[1])

    def _observed(self, seconds: float) -> None:
        self._pace += (seconds - self._pace) / 8
        self._observe(seconds)

    def _forget(self, compiling: _Compile) -> None:
        self._leave_queue(compiling)
        if (known := self._compiling.get(compiling.asked)) is not None and known[0] is compiling:
            del self._compiling[compiling.asked]

    def _remember(self, compiling: _Compile, task: asyncio.Task[str]) -> None:
        self._forget(compiling)
        # Reading the exception also keeps asyncio from logging it if all clients have left.
        if task.cancelled():
            return
        asked = compiling.asked
        if (error := task.exception()) is not None:
            if isinstance(error, ConstraintError) and error.message in (TOO_LONG, TOO_LARGE):
                until = time.monotonic() + REFUSED_SECONDS
                self._refused[_digest(asked)] = until, error.message
                if len(self._refused) > MOST_REFUSED:
                    self._refused.popitem(last=False)
            return
        self._compiled[asked] = compiled = task.result()
        self._bytes += sys.getsizeof(asked[1]) + sys.getsizeof(compiled)
        while self._bytes > CACHED_BYTES and len(self._compiled) > 1:
            (_, text), dropped = self._compiled.popitem(last=False)
            self._bytes -= sys.getsizeof(text) + sys.getsizeof(dropped)

    def close(self) -> None:
        self.workers.close()
        self.compiles.close()
        self._checks.close()


def _digest(asked: Asked) -> bytes:
    """The key of a refused constraint, whose text is too large to keep."""
    task, text = asked
    return hashlib.sha256(f"{task} {text}".encode()).digest()
