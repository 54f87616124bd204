"""`python -m formgate.gateway --model MODEL` is `formgate serve MODEL`."""

from __future__ import annotations

import os
import sys

from formgate.gateway.container_init import run_as_init


def main() -> int:
    if os.getpid() == 1:
        return run_as_init([sys.executable, *sys.orig_argv[1:]])
    from formgate.gateway import cli  # as in `entry`
    from formgate.gateway.serving import flags  # as in `entry`

    return cli.serve(flags.parse_serve(sys.argv[1:], prog="python -m formgate.gateway"))


if __name__ == "__main__":
    sys.exit(main())
