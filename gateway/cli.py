"""`formgate serve`, `formgate --version`: parses the command line, finds the model and runs the
server until a signal stops it. A failure that the user can mend prints one line and exits with 1.
A signal before the server is ready, or a second signal, exits with 128 + its number.
`formgate template` prints a report and starts nothing. The other commands are in `commands/`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeVar

from formgate.engine.adapter import AdapterSource
from formgate.engine.config import EngineConfig
from formgate.gateway.http.shutdown import SIGNALS
from formgate.gateway.server_config import ServerConfig
from formgate.gateway.serving.console import open_standard_streams, say
from formgate.gateway.serving.flags import CommandLine, parse_serve
from formgate.gateway.serving.headless import run_headless
from formgate.gateway.serving.listener import ListenError, bound
from formgate.gateway.serving.lora_modules import adapter_sources, checked_lora_dir
from formgate.gateway.serving.model_hub import ModelError, check_model_folder, resolve_model
from formgate.gateway.serving.server import ServeError, run_server
from formgate.gateway.serving.template_report import template_command

T = TypeVar("T")

USAGE = """usage: formgate COMMAND ...

  serve [MODEL] [options]        serve MODEL over the OpenAI and Anthropic APIs; without MODEL,
                                 the small model that comes with formgate
  chat [URL|MODEL] [options]     talk in the terminal to a running server, or to one it starts
  check SCHEMA [--json]          say how each keyword of a JSON Schema is enforced
  template MODEL_OR_FILE [--json]
                                 say how a chat template writes tool calls, and read them back
  doctor [MODEL] [options]       find what would keep `serve` from running here, and what to do
  bench URL [options]            measure a server at rising concurrency
  --version

MODEL is a Hugging Face folder or hub name, or a GGUF file.
`formgate COMMAND --help` lists a command's options.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    match words:
        case ["serve", *_]:
            return serve(parse_serve(words[1:], prog="formgate serve"))
        case ["template", *_]:
            return template_command(words[1:])
        case ["check" | "doctor" | "chat" | "bench" as name, *_]:
            # Late: a server needs none of them.
            from formgate.gateway.commands.dispatch import run_command

            return run_command(name, words[1:])
        case ["--version" | "-V" | "version", *_]:
            print(f"formgate {importlib.metadata.version('formgate')}")
            return 0
        case [] | ["--help" | "-h" | "help", *_]:
            print(USAGE, end="")
            return 0
        case _:
            print(
                f"formgate: error: unknown command {words[0]}\n\n{USAGE}", end="", file=sys.stderr
            )
            return 2


def serve(command: CommandLine) -> int:
    open_standard_streams()
    config = command.server
    if any(os.environ.get(name) != value for name, value in config.env.items()):
        # Imported libraries have already read some of these variables, so start again.
        os.execve(sys.executable, sys.orig_argv, os.environ | config.env)
    for note in command.notes:
        say(f"formgate: note: {note}", sys.stderr)
    try:
        if command.engine_options["node_rank"]:
            with _interrupted_by_signals():
                engine, _ = _engine_config(command)
            return run_headless(engine)
        with _interrupted_by_signals(), bound(config) as listener:
            return _serve_on(listener, command)
    except (ListenError, ModelError, ServeError) as error:
        say(f"formgate: error: {error}", sys.stderr)
        return 1
    except Interrupted as interrupted:
        # Not `return`: the interpreter would wait for the threads of a download.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 + interrupted.number)


class Interrupted(BaseException):
    """A signal arrived before the server installed its handlers."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    before = {number: signal.signal(number, _interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)


def _serve_on(listener: socket.socket, command: CommandLine) -> int:
    engine, tokenizer_dir = _engine_config(command)
    return run_server(command.server, engine, tokenizer_dir, listener)


def _engine_config(command: CommandLine) -> tuple[EngineConfig, Path]:
    """(the engine's half, the tokenizer's folder); downloads what is missing."""
    # In a thread: a download in the main thread would hold signals back.
    model_dir, tokenizer_dir = _result_of_thread(partial(_model_folders, command.server))
    checked_lora_dir(command.server)
    adapters: tuple[AdapterSource, ...] = ()
    if not command.engine_options["node_rank"]:  # rank 0 reads them for all
        adapters = _result_of_thread(partial(adapter_sources, command.server))
    engine = command.engine(model_dir, adapters)
    check_model_folder(model_dir, tokenizer_dir, weights=engine.load_format != "dummy")
    return engine, tokenizer_dir


def _model_folders(config: ServerConfig) -> tuple[Path, Path]:
    """(model folder, tokenizer folder); downloads what is missing."""
    model_dir = resolve_model(
        config.model,
        revision=config.revision,
        token=config.hf_token,
        download_dir=config.download_dir,
    )
    if config.tokenizer is None:
        return model_dir, model_dir
    return model_dir, resolve_model(
        config.tokenizer,
        token=config.hf_token,
        download_dir=config.download_dir,
        tokenizer_only=True,
    )


def _result_of_thread(work: Callable[[], T]) -> T:
    """Return or raise the result of `work`. Signals can interrupt the waiting main thread."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="work", daemon=True).start()
    return future.result()


if __name__ == "__main__":
    sys.exit(main())
