"""A private folder for the Unix sockets between the server's processes. A socket's path has at most
107 bytes, which TMPDIR may exceed.
"""

from __future__ import annotations

import errno
import os
import tempfile

PREFIX = "formgate-"
MAX_PATH_BYTES = 107  # of a Unix socket's address
# The rest of a path: mkdtemp's eight characters, and the longest socket name.
SUFFIX_BYTES = len(f"/{PREFIX}12345678/commands-12345")
OTHER_PARENTS = ("/tmp", "/var/tmp", "/dev/shm")


def socket_folder() -> tempfile.TemporaryDirectory[str]:
    """A new folder that is removed at exit. Raises OSError."""
    return tempfile.TemporaryDirectory(
        prefix=PREFIX, dir=_parent(tempfile.gettempdir()), ignore_cleanup_errors=True
    )


def _parent(temporary: str) -> str:
    """`temporary`, or the first usable folder of `OTHER_PARENTS` if that path is too long."""
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
