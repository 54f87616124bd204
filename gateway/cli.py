"""`formgate serve`, `formgate --version`: reads the command line, finds the model and runs the
server until it is told to stop. Every failure that the user can mend is one line and exit code 1.
"""

from __future__ import annotations

import importlib.metadata
import os
import socket
import sys
from collections.abc import Sequence

from formgate.gateway.flags import CommandLine, parse_serve
from formgate.gateway.listener import ListenError, bound
from formgate.gateway.model_hub import ModelError, check_model_folder, resolve_model
from formgate.gateway.server import ServeError, run_server

USAGE = """usage: formgate serve [MODEL] [options]
       formgate --version

Serves MODEL, a Hugging Face folder or hub name, over the OpenAI API;
without MODEL, the small model that comes with formgate.

`formgate serve --help` lists the options.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    match words[:1]:
        case ["serve"]:
            return serve(parse_serve(words[1:], prog="formgate serve"))
        case ["--version" | "-V" | "version"]:
            print(f"formgate {importlib.metadata.version('formgate')}")
            return 0
        case [] | ["--help" | "-h" | "help"]:
            print(USAGE, end="")
            return 0
        case _:
            print(
                f"formgate: error: unknown command {words[0]}\n\n{USAGE}", end="", file=sys.stderr
            )
            return 2


def serve(command: CommandLine) -> int:
    config = command.server
    if any(os.environ.get(name) != value for name, value in config.env.items()):
        # Libraries read some variables when they are imported, which has happened already.
        os.execve(sys.executable, sys.orig_argv, os.environ | config.env)
    for note in command.notes:
        print(f"formgate: note: {note}", file=sys.stderr)
    try:
        with bound(config) as listener:
            _serve_on(listener, command)
    except (ListenError, ModelError, ServeError) as error:
        print(f"formgate: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _serve_on(listener: socket.socket, command: CommandLine) -> None:
    config = command.server
    model_dir = resolve_model(
        config.model,
        revision=config.revision,
        token=config.hf_token,
        download_dir=config.download_dir,
    )
    tokenizer_dir = model_dir
    if config.tokenizer is not None:
        tokenizer_dir = resolve_model(
            config.tokenizer,
            token=config.hf_token,
            download_dir=config.download_dir,
            tokenizer_only=True,
        )
    engine = command.engine(model_dir)
    check_model_folder(model_dir, tokenizer_dir, weights=engine.load_format != "dummy")
    run_server(config, engine, tokenizer_dir, listener)


if __name__ == "__main__":
    sys.exit(main())
