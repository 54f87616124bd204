"""`formgate serve` in full, with the plan in place of a model. Takes `--host` and `--port`; the
tokenizer and chat template are the embedded model's.
"""

from __future__ import annotations

import sys
from pathlib import Path

from formgate import embedded
from formgate.gateway.serving.flags import parse_serve
from formgate.gateway.serving.listener import bound
from formgate.gateway.serving.server import run_server

NAMES = ("planned", "gpt-5.5")


def main() -> int:
    folder = embedded.path()
    arguments = ["--model", str(folder), "--served-model-name", *NAMES, *sys.argv[1:]]
    command = parse_serve(arguments, prog="server.py")
    engine = (sys.executable, str(Path(__file__).with_name("planned_engine.py")))
    with bound(command.server) as listener:
        return run_server(
            command.server, command.engine(folder), folder, listener, engine_command=engine
        )


if __name__ == "__main__":
    sys.exit(main())
