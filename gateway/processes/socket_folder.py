"""A private folder for the Unix sockets between the server's processes, where their paths are short
enough: the kernel takes 107 bytes, and TMPDIR may be longer than that.
"""

from __future__ import annotations

import errno
import os
import tempfile

PREFIX = "formgate-"
MAX_PATH_BYTES = 107  # of a Unix socket's address
# What follows the parent folder: mkdtemp's eight characters, and the longest name of a socket.
SUFFIX_BYTES = len(f"/{PREFIX}12345678/commands-12345")
OTHER_PARENTS = ("/tmp", "/var/tmp", "/dev/shm")


def socket_folder() -> tempfile.TemporaryDirectory[str]:
    """Raises OSError."""
    return tempfile.TemporaryDirectory(
        prefix=PREFIX, dir=_parent(tempfile.gettempdir()), ignore_cleanup_errors=True
    )


def _parent(temporary: str) -> str:
    """`temporary`, or the first of the usual folders if that path is too long."""
    if _fits(temporary):
        return temporary
    for parent in OTHER_PARENTS:
        if os.access(parent, os.W_OK | os.X_OK):
            return parent
    raise OSError(
        errno.ENAMETOOLONG,
        f"the temporary folder's path is too long for a Unix socket "
        f"(over {MAX_PATH_BYTES - SUFFIX_BYTES} bytes; set TMPDIR)",
    )


def _fits(parent: str) -> bool:
    return len(os.fsencode(parent)) + SUFFIX_BYTES <= MAX_PATH_BYTES
