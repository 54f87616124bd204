"""Compiled grammars by the text of their constraint, least recently used out first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

BATCHES = 8  # in which all values would be dropped, while the heap is too large


class GrammarCache(Generic[T]):
    """Thread-safe. Bounded by the bytes that its values are said to take; one value may be larger
    than all that is allowed, and is then alone.

    Values that grow after they were put are bounded by `heap_bytes`, the bytes in use of the whole
    process: while these have grown by more than `max_bytes` since the cache held no more than one
    value, the oldest values are dropped.
    """

    def __init__(self, max_bytes: int, heap_bytes: Callable[[], int | None] = lambda: None) -> None:
        self._max_bytes = max_bytes
        self._heap_bytes = heap_bytes
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
        self._shrink_heap()
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
        self._shrink_heap()

    def _drop_oldest(self) -> T:
        _, (value, size) = self._values.popitem(last=False)
        self._bytes -= size
        return value

    def _shrink_heap(self) -> None:
        while (used := self._heap_bytes()) is not None and self._least_heap is not None:
            self._least_heap = min(self._least_heap, used)
            if used <= self._least_heap + self._max_bytes:
                return
            with self._lock:
                others = len(self._values) - 1
                if others <= 0:
                    # The rest is not the cache's, or belongs to sequences under way: it must not
                    # keep the cache empty.
                    self._least_heap = used
                    return
                dropped = [self._drop_oldest() for _ in range(-(-others // BATCHES))]
            dropped.clear()  # without the lock: to free them may take a while
