"""Builds constraints off the step: a sequence joins the scheduler when its constraint is ready, and
a compile that takes long, or fails, concerns nobody else.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from formgate.engine.devices import usable_cpus
from formgate.engine.hooks import ConstraintFactory, TokenConstraint
from formgate.engine.sequence import Sequence

MAX_BUILD_THREADS = 8

Built = tuple[Sequence, TokenConstraint | Exception]


class ConstraintBuilder:
    def __init__(self, factory: ConstraintFactory) -> None:
        self._factory = factory
        # Most of a build lets Python run: a burst of new grammars is built side by side.
        threads = max(2, min(MAX_BUILD_THREADS, usable_cpus() // 2))
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="constraint")
        self._built: queue.SimpleQueue[Built] = queue.SimpleQueue()
        self._num_pending = 0

    @property
    def num_pending(self) -> int:
        """Sequences that were submitted and not yet collected."""
        return self._num_pending

    def submit(self, sequence: Sequence, constraint: str) -> None:
        self._num_pending += 1
        self._threads.submit(self._build, sequence, constraint)

    def collect(self, *, timeout: float = 0.0) -> Iterator[Built]:
        """What is ready by now; waits up to `timeout` seconds for the first. Sequences that were
        aborted meanwhile are among them.
        """
        while self._num_pending:
            try:
                built = self._built.get(block=timeout > 0.0, timeout=timeout or None)
            except queue.Empty:
                return
            timeout = 0.0
            self._num_pending -= 1
            yield built

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _build(self, sequence: Sequence, constraint: str) -> None:
        result: TokenConstraint | Exception
        try:
            # Nothing to build for a client that has left.
            result = ValueError("aborted") if sequence.is_finished else self._factory(constraint)
        except Exception as error:
            result = error
        self._built.put((sequence, result))
