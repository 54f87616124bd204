"""File descriptors: as many as the system allows, some of them kept for the server itself."""

from __future__ import annotations

import contextlib
import resource

RESERVED = 256  # for the engine's sockets and pipes, compile workers, and connections refused


def raise_open_files() -> None:
    """Raise the soft limit to the hard one; the processes that are started later inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems count the limit otherwise
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections_within(wanted: int) -> int:
    """`wanted`, or what the limit on descriptors leaves: out of them, an engine could not be
    started again."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, max(soft - RESERVED, soft // 2)))
