"""Returns to the system the free memory that large requests leave in the C heap."""

from __future__ import annotations

import resource
import threading
import time
from pathlib import Path

from formgate.constrain.heap import Heap

PERIOD = 5.0  # seconds
GROWTH_BYTES = 16 << 20  # of resident memory since the last trim, to trim again

_STATM = Path("/proc/self/statm")


class HeapTrimmer:
    """A trim takes about 20 ms per 500 MB, during which allocations of other threads wait."""

    def __init__(self) -> None:
        self._heap = Heap()
        self._kept = resident_bytes()

    def start(self) -> None:
        """Check periodically in a daemon thread."""
        threading.Thread(target=self._run, name="heap-trimmer", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(PERIOD)
            self.trim_if_grown()

    def trim_if_grown(self) -> None:
        resident = resident_bytes()
        if resident > self._kept + GROWTH_BYTES:
            self._heap.trim()
            self._kept = resident_bytes()
        else:
            self._kept = min(self._kept, resident)


def resident_bytes() -> int:
    """Resident memory of this process; 0 without /proc."""
    try:
        return int(_STATM.read_bytes().split()[1]) * resource.getpagesize()
    except OSError:
        return 0
