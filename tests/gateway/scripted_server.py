"""`formgate serve` in full, over an engine process without an engine. Run as a program by
`test_server`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from formgate.gateway.serving.console import open_standard_streams
from formgate.gateway.serving.flags import parse_serve
from formgate.gateway.serving.listener import bound
from formgate.gateway.serving.server import ServeError, run_server


def main() -> int:
    open_standard_streams()
    command = parse_serve(sys.argv[1:], prog="scripted_server")
    engine = (sys.executable, str(Path(__file__).with_name("scripted_engine.py")))
    folder = Path(command.server.model or "")
    with bound(command.server) as listener:
        try:
            return run_server(
                command.server, command.engine(folder), folder, listener, engine_command=engine
            )
        except ServeError as error:
            print(f"error: {error}")
            return 1


if __name__ == "__main__":
    sys.exit(main())
