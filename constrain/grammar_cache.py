"""Compiled grammars by the text of their constraint, least recently used out first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class GrammarCache(Generic[T]):
    """Thread-safe. Bounded by the bytes that its values are said to take; one value may be larger
    than all that is allowed, and is then alone.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
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
            return entry[0]

    def put(self, key: str, value: T, size: int) -> None:
        size += len(key)
        with self._lock:
            if key in self._values:
                return
            self._values[key] = value, size
            self._bytes += size
            while self._bytes > self._max_bytes and len(self._values) > 1:
                _, (_, freed) = self._values.popitem(last=False)
                self._bytes -= freed
