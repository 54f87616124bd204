"""A compile worker: a process of its own, because what compiles a user's grammar may take too long,
too much memory, or its process down.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from formgate.constrain.compiler import Backend, GrammarCompiler
from formgate.constrain.errors import ConstraintError
from formgate.constrain.schema_report import schema_report
from formgate.gateway.compile_pool import TOO_LARGE, step_back
from formgate.gateway.engine_launch import end_with_parent
from formgate.gateway.grammar_setup import grammar_compiler
from formgate.gateway.tokenizer_folder import load_tokenizer

COMMAND = (sys.executable, "-m", "formgate.gateway.compile_worker")
MEMORY_BYTES = 4 << 30  # of address space
CPU_SECONDS = 1.5  # of one constraint: what is refused must not depend on what else runs
MOST_GARBAGE = 50_000  # objects that may have become unreachable before they are looked for

# The stack of a worker is smaller than the engine's: what a worker survives, the engine does.
STACK_BYTES = 4 << 20


def worker_command(tokenizer_dir: Path, model_dir: Path, backend: Backend) -> list[str]:
    """For `CompilePool`."""
    return [*COMMAND, str(tokenizer_dir), str(model_dir), backend]


class CompileTasks:
    """What a compile worker can be asked for. Texts in, texts out; each raises ConstraintError."""

    def __init__(self, compiler: GrammarCompiler) -> None:
        self._compiler = compiler

    def blueprint(self, spec_text: str) -> str:
        return self._compiler.blueprint(spec_text)

    def sized_blueprint(self, spec_text: str) -> str:
        """`[blueprint, tokens of the shortest answer, what closing needs to know of the grammar]`
        as JSON.
        """
        blueprint, shortest = self._compiler.sized_blueprint(spec_text)
        parts = [shortest.largest_part, shortest.endings, shortest.text]
        return json.dumps([blueprint, self._compiler.num_tokens(shortest.text), parts])

    def schema_report(self, schema_text: str) -> str:
        return json.dumps(schema_report(json.loads(schema_text), self._compiler))


def main(arguments: list[str]) -> None:
    tokenizer_dir, model_dir, backend, descriptor = arguments
    end_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tokenizer = load_tokenizer(Path(tokenizer_dir))
    compiler = grammar_compiler(tokenizer, Path(model_dir), cast(Backend, backend), for_masks=False)
    tasks = CompileTasks(compiler)
    step_back(os.getpid())
    gc.freeze()  # what lives as long as the worker is not looked at again and again
    gc.disable()  # but between two answers
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=serve, args=(Connection(int(descriptor)), tasks))
    thread.start()
    thread.join()


def serve(pipe: Connection, tasks: CompileTasks) -> None:
    """Answer until the other end is closed. Requests and answers are JSON: `[task, text]`, and
    an object with `result` or with `error`, the fields of a ConstraintError. The process dies of
    SIGPROF where one takes longer than CPU_SECONDS, whoever's code it is in.
    """
    pipe.send_bytes(b"ready")
    while True:
        try:
            task, text = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        answer = json.dumps(_answer(tasks, task, text)).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        pipe.send_bytes(answer)
        if gc.get_count()[0] > MOST_GARBAGE:
            gc.collect()


def _answer(tasks: CompileTasks, task: str, text: str) -> dict[str, Any]:
    try:
        return {"result": getattr(tasks, task)(text)}
    except ConstraintError as error:
        fields = ("message", "code", "pointer", "keyword")
        return {"error": {name: getattr(error, name) for name in fields}}
    except MemoryError:
        return {"error": {"message": TOO_LARGE, "code": "schema_too_complex"}}


if __name__ == "__main__":
    main(sys.argv[1:])
