"""Builds constraints in threads beside the step loop. A sequence joins the scheduler when its
constraint is ready; a build that is slow or fails delays no other sequence.
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
        # Most of a build releases the GIL, so a burst of new grammars is built in parallel.
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
        """Yield each sequence whose build has ended, with its constraint or the exception. Waits up
        to `timeout` seconds for the first. Aborted sequences are included.
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
            # The client may have left while the sequence waited for a thread.
            result = ValueError("aborted") if sequence.is_finished else self._factory(constraint)
        except Exception as error:
            result = error
        self._built.put((sequence, result))
