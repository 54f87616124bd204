"""A compile worker: a process of its own, because what compiles a user's grammar may take too long,
too much memory, or its process down. Run as a program, this is what loads the vocabulary and forks
the workers.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import sys
import threading
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from formgate.constrain.compiler import Backend, GrammarCompiler
from formgate.constrain.errors import ConstraintError
from formgate.constrain.schema_report import schema_report
from formgate.gateway.compile_host import CompileHost
from formgate.gateway.compile_pool import TOO_LARGE
from formgate.gateway.engine_launch import end_with_parent, leave_signals_to_parent
from formgate.gateway.grammar_setup import grammar_compiler
from formgate.gateway.tokenizer_folder import load_tokenizer

COMMAND = (sys.executable, "-m", "formgate.gateway.compile_worker")
MEMORY_BYTES = 4 << 30  # of address space
CPU_SECONDS = 1.0  # of one constraint: what is refused must not depend on what else runs
WALL_SECONDS = 10.0  # but nobody waits for ever
MOST_GARBAGE = 50_000  # objects that may have become unreachable before they are looked for

NICENESS = 4

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

    def fitting_blueprint(self, spec_text: str) -> str:
        """`[blueprint, how many tokens are enough for an answer]` as JSON."""
        return json.dumps(self._compiler.fitting_blueprint(spec_text))

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
    leave_signals_to_parent()
    tokenizer_dir, model_dir, backend, *descriptors = arguments
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tokenizer = load_tokenizer(Path(tokenizer_dir))
    compiler = grammar_compiler(tokenizer, Path(model_dir), cast(Backend, backend), for_masks=False)
    step_back(os.getpid())
    compiler.warm_up()
    compiler.warm_up_formats()
    gc.freeze()  # what lives as long as the workers is not looked at, nor copied, again and again
    gc.disable()  # but between two answers
    threading.stack_size(STACK_BYTES)
    serve = partial(serve_apart, CompileTasks(compiler))
    CompileHost(serve, [Connection(int(descriptor)) for descriptor in descriptors]).run()


def step_back(process_id: int) -> None:
    """A step of the engine comes first: where it runs on the CPU, every other request waits for it.
    Linux may give each session its fair share and heed niceness within it alone (man 7 sched), so
    the session is told too.
    """
    os.setpriority(os.PRIO_PROCESS, process_id, NICENESS)
    with contextlib.suppress(OSError):
        Path(f"/proc/{process_id}/autogroup").write_text(str(NICENESS), encoding="ascii")


def serve_apart(tasks: CompileTasks, pipe: Connection) -> None:
    """`serve` within the limits of a worker."""
    end_with_parent()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    thread = threading.Thread(target=serve, args=(tasks, pipe))
    thread.start()
    thread.join()


def serve(tasks: CompileTasks, pipe: Connection) -> None:
    """Answer until the other end is closed. Requests and answers are JSON: `[number, task, text]`,
    and an object with that number and `result` or `error`, the fields of a ConstraintError. The
    process dies of SIGPROF where one takes longer than CPU_SECONDS, whoever's code it is in, and of
    SIGALRM after WALL_SECONDS.
    """
    while True:
        try:
            number, task, text = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
        answer = json.dumps({"number": number, **_answer(tasks, task, text)}).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
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
