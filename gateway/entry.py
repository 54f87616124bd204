"""The `formgate` command. As process 1 of a container it runs the server as its child."""

from __future__ import annotations

import os
import sys

from formgate.gateway.container_init import run_as_init


def main() -> int:
    if os.getpid() == 1:
        return run_as_init([sys.executable, *sys.orig_argv[1:]])
    # Late: its imports take a second, during which process 1 would ignore signals.
    from formgate.gateway import cli

    return cli.main()
