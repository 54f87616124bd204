"""`python -m formgate.gateway --model MODEL` is `formgate serve MODEL`."""

from __future__ import annotations

import sys

from formgate.gateway.cli import serve
from formgate.gateway.flags import parse_serve

if __name__ == "__main__":
    sys.exit(serve(parse_serve(sys.argv[1:], prog="python -m formgate.gateway")))
