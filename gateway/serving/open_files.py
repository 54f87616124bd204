"""The limit on file descriptors: raised to its maximum, some reserved for the server itself."""

from __future__ import annotations

import contextlib
import resource

RESERVED = 256  # for the engine's sockets and pipes, compile workers, and refused connections


def raise_open_files() -> None:
    """Raise the soft limit to the hard one; child processes inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems allow less than the hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections_within(wanted: int) -> int:
    """`wanted` connections, or fewer if the descriptor limit is lower: without free descriptors the
    engine could not be restarted."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, max(soft - RESERVED, soft // 2)))
