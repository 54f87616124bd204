"""The C heap of this process. llguidance keeps its grammars there, grows them while it computes
masks, and does not report their size. Works with glibc only; elsewhere it reports and does nothing.
"""

from __future__ import annotations

import ctypes

_ARENA_MAX = -8  # malloc.h: M_ARENA_MAX


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


class Heap:
    """Thread-safe. Both calls release the GIL."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self._info = getattr(library, "mallinfo2", None)
        self._trim = getattr(library, "malloc_trim", None)
        self._option = getattr(library, "mallopt", None)
        if self._info is not None:
            self._info.restype = _Mallinfo

    def bytes_in_use(self) -> int | None:
        """Bytes allocated and not freed; None without glibc. Takes 5 us to 2 ms, by
        the number of free chunks."""
        if self._info is None:
            return None
        info = self._info()
        return int(info.uordblks + info.hblkhd)

    def share_one_arena(self) -> None:
        """Let all threads allocate from one arena. Where the GIL lets one thread run at a time, an
        arena for each only keeps more free pages. Call it before the threads start.
        """
        if self._option is not None and self._info is not None:
            self._option(_ARENA_MAX, 1)

    def trim(self) -> None:
        """Return freed pages to the system. glibc itself does so only at the top of an arena."""
        if self._trim is not None:
            self._trim(0)
