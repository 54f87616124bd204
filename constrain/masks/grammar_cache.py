"""An LRU cache of compiled grammars by the text of their constraint."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

BATCHES = 8  # while the heap is too large, an eighth of the values is dropped at a time


class GrammarCache(Generic[T]):
    """Thread-safe. Bounded by the sizes given to `put`; a value larger than `max_bytes` is kept
    alone.

    Values that grow later are bounded by `heap_bytes`, the bytes in use of the whole process: while
    these exceed their amount when the cache held at most one value by more than `max_bytes`, the
    oldest values are dropped.
    """

    def __init__(
        self,
        max_bytes: int,
        heap_bytes: Callable[[], int | None] | None = None,
        *,
        check_seconds: float = 0.0,
    ) -> None:
        """`check_seconds`: the heap is measured once in this time at most, because that takes
        milliseconds in a large process.
        """
        self._max_bytes = max_bytes
        self._heap_bytes = heap_bytes or _unknown
        self._check_seconds = check_seconds
        self._checked = -check_seconds  # time.monotonic(), seconds
        self._least_heap: int | None = None
        self._values: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> T | None:
        with self._lock:
            entry = self._values.get(key)
            if entry is None:
                return None
            self._values.move_to_end(key)
        self._check_heap()
        return entry[0]

    def put(self, key: str, value: T, size: int) -> None:
        size += len(key)
        with self._lock:
            if key in self._values:
                return
            if len(self._values) <= 1:
                self._least_heap = self._heap_bytes()
            self._values[key] = value, size
            self._bytes += size
            while self._bytes > self._max_bytes and len(self._values) > 1:
                self._drop_oldest()
        self._check_heap()

    def _drop_oldest(self) -> T:
        _, (value, size) = self._values.popitem(last=False)
        self._bytes -= size
        return value

    def _check_heap(self) -> None:
        now = time.monotonic()
        if now >= self._checked + self._check_seconds:
            self._checked = now
            self._shrink_heap()

    def _shrink_heap(self) -> None:
        while (used := self._heap_bytes()) is not None and self._least_heap is not None:
            self._least_heap = min(self._least_heap, used)
            if used <= self._least_heap + self._max_bytes:
                return
            with self._lock:
                others = len(self._values) - 1
                if others <= 0:
                    # The heap belongs to others, or to running sequences, and must not keep the
                    # cache empty.
                    self._least_heap = used
                    return
                dropped = [self._drop_oldest() for _ in range(-(-others // BATCHES))]
            dropped.clear()  # outside of the lock, as freeing may take long


def _unknown() -> int | None:
    return None
