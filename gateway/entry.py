"""The `formgate` command. As the first process of a container it only looks after the server."""

from __future__ import annotations

import os
import sys

from formgate.gateway.container_init import run_as_init


def main() -> int:
    if os.getpid() == 1:
        return run_as_init([sys.executable, *sys.orig_argv[1:]])
    # What it imports takes a second, in which process 1 would ignore signals.
    from formgate.gateway import cli

    return cli.main()
