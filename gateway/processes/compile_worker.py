"""A compile worker: a process of its own, because compiling a client's grammar may take too long,
use too much memory or crash. As a program, this module is the host that loads the vocabulary and
forks the workers.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import signal
import sys
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from formgate.constrain.answer_check import AnswerCheck, Unchecked, regex_failure
from formgate.constrain.compiler import Backend, GrammarCompiler
from formgate.constrain.errors import ConstraintError
from formgate.constrain.heap import Heap
from formgate.constrain.masks.constraint import Constraint, SizedConstraint
from formgate.constrain.schema_report import schema_report
from formgate.gateway.model.tokenizer_folder import load_tokenizer
from formgate.gateway.processes.compile_host import CLOSED, RENEWED, CompileHost, Taken
from formgate.gateway.processes.compile_workers import TOO_DEEP, TOO_LARGE
from formgate.gateway.processes.engine_launch import leave_signals_to_parent
from formgate.gateway.processes.grammar_setup import grammar_compiler

COMMAND = (sys.executable, "-m", "formgate.gateway.processes.compile_worker")
MEMORY_BYTES = 4 << 30  # of address space
KEPT_BYTES = 32 << 20  # that a worker may grow by between two answers
CPU_SECONDS = 1.0  # of one constraint; CPU time, so that other load causes no refusal
CHECK_CPU_SECONDS = 0.5  # of the last validation of one answer
WALL_SECONDS = 10.0  # of one constraint, against a wait without CPU use
CACHED_CHECKS = 256  # compiled schemas for the last validation
CACHED_CHECK_BYTES = 8 << 20  # of their texts
MOST_GARBAGE = 50_000  # unreachable objects before a collection

NICENESS = 4

# Smaller than the engine's stack: a constraint that a worker survives cannot overflow the engine's.
STACK_BYTES = 4 << 20


def worker_command(tokenizer_dir: Path, model_dir: Path, backend: Backend) -> list[str]:
    """The host's command line, for `CompilePool`."""
    return [*COMMAND, str(tokenizer_dir), str(model_dir), backend]


class CompileTasks:
    """The tasks of a compile worker: text in, text out. Each raises ConstraintError."""

    def __init__(self, compiler: GrammarCompiler) -> None:
        self._compiler = compiler
        self._checks = CheckCache()

    def constraint(self, spec_text: str) -> str:
        """A `Constraint`, as JSON."""
        return Constraint.of(self._compiler.blueprint(spec_text)).dumps()

    def fitting_constraint(self, spec_text: str) -> str:
        """A `SizedConstraint` with a number of tokens that suffices for an answer, as JSON."""
        blueprint, enough = self._compiler.fitting_blueprint(spec_text)
        return SizedConstraint(Constraint.of(blueprint), enough).dumps()

    def sized_constraint(self, spec_text: str) -> str:
        """A `SizedConstraint` with the number of tokens of the shortest answer, as JSON."""
        blueprint, shortest = self._compiler.sized_blueprint(spec_text)
        tokens = self._compiler.num_tokens(shortest.text)
        return SizedConstraint(Constraint.of(blueprint), tokens).dumps()

    def closing_constraint(self, spec_text: str) -> str:
        """As `sized_constraint`, with a closing budget whose tokens are still to be set. The number
        of tokens is that of the answer that it closes with: a shorter one may repeat a sibling.
        """
        blueprint, shortest = self._compiler.sized_blueprint(spec_text)
        closing = self._compiler.closing(blueprint, shortest)
        tokens = max(self._compiler.num_tokens(shortest.text), len(closing.way) - 1)
        return SizedConstraint(Constraint.of(blueprint, closing), tokens).dumps()

    def schema_report(self, schema_text: str) -> str:
        return json.dumps(schema_report(json.loads(schema_text), self._compiler))

    def check_json(self, text: str) -> str:
        """`text` is a schema and an answer, both JSON, separated by a newline. Returns `[failure,
        reason why it is unchecked]` as JSON, null where it does not apply.
        """
        schema_text, _, answer = text.partition("\n")
        return _outcome(lambda: self._checks.of(schema_text).failure(answer))

    def check_regex(self, text: str) -> str:
        """As `check_json`, for a pattern as JSON and a plain text."""
        pattern, _, answer = text.partition("\n")
        return _outcome(lambda: regex_failure(json.loads(pattern), answer))


class CheckCache:
    """The most recently used schemas, compiled for the last validation."""

    def __init__(self) -> None:
        self._checks: OrderedDict[str, AnswerCheck] = OrderedDict()
        self._bytes = 0

    def of(self, schema_text: str) -> AnswerCheck:
        """Raises Unchecked."""
        check = self._checks.get(schema_text)
        if check is not None:
            self._checks.move_to_end(schema_text)
            return check
        self._checks[schema_text] = check = AnswerCheck(schema_text)
        self._bytes += sys.getsizeof(schema_text)
        while self._bytes > CACHED_CHECK_BYTES or len(self._checks) > CACHED_CHECKS:
            dropped, _ = self._checks.popitem(last=False)
            self._bytes -= sys.getsizeof(dropped)
        return check


def _outcome(check: Callable[[], str | None]) -> str:
    try:
        return json.dumps([check(), None])
    except Unchecked as unchecked:
        return json.dumps([None, unchecked.reason])


def main(arguments: list[str]) -> None:
    leave_signals_to_parent()
    tokenizer_dir, model_dir, backend, *descriptors = arguments
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tokenizer = load_tokenizer(Path(tokenizer_dir))
    compiler = grammar_compiler(tokenizer, Path(model_dir), cast(Backend, backend), for_masks=False)
    step_back(os.getpid())
    compiler.warm_up()
    compiler.warm_up_formats()
    gc.freeze()  # long-lived objects are not scanned, nor their pages copied
    gc.disable()  # `serve` collects between answers
    Heap().share_one_arena()
    threading.stack_size(STACK_BYTES)
    serve = partial(serve_apart, CompileTasks(compiler))
    CompileHost(serve, [Connection(int(descriptor)) for descriptor in descriptors]).run()


def step_back(process_id: int) -> None:
    """Lower the priority of a process and of its session: on a CPU, all requests wait for the
    engine's step. With autogroups, Linux applies niceness only within a session (man 7 sched).
    """
    os.setpriority(os.PRIO_PROCESS, process_id, NICENESS)
    with contextlib.suppress(OSError):
        Path(f"/proc/{process_id}/autogroup").write_text(str(NICENESS), encoding="ascii")


def serve_apart(tasks: CompileTasks, pipe: Connection, taken: Taken) -> int:
    """Run `serve` under a worker's resource limits."""
    threading.Thread(target=_end_with_server, name="end-with-server", daemon=True).start()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with contextlib.suppress(OSError):  # if memory runs out, the kernel kills a worker first
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(serve(tasks, pipe, taken)))
    thread.start()
    thread.join()
    return codes[0]


def _end_with_server() -> None:
    """Exit once the writing end of standard input is closed. Reads nothing: the host does."""
    poll = select.poll()
    poll.register(sys.stdin.fileno(), 0)
    poll.poll()
    os._exit(CLOSED)


def serve(tasks: CompileTasks, pipe: Connection, taken: Taken) -> int:
    """Answer requests until the pipe is closed or the process holds too much memory; returns the
    exit code. A request is JSON, `[number, task, text]`. The answer is an object with the number
    and `result`, `error` (the fields of a ConstraintError) or `failed` (where an unexpected
    exception was raised). A request over its CPU seconds ends the process by SIGPROF, over
    WALL_SECONDS by SIGALRM.
    """
    at_first = _resident_bytes()
    while True:
        try:
            number, task, text = json.loads(pipe.recv_bytes())
        except (EOFError, ConnectionError):  # the server was stopped, or killed
            return CLOSED
        taken(number)
        is_check = task.startswith("check_")
        signal.setitimer(signal.ITIMER_PROF, CHECK_CPU_SECONDS if is_check else CPU_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
        answer = json.dumps({"number": number, **_answer(tasks, task, text)}).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        del text
        if gc.get_count()[0] > MOST_GARBAGE:
            gc.collect()
        # Exiting returns the memory that a hostile constraint left in allocators and caches.
        full = _resident_bytes() > at_first + KEPT_BYTES
        try:
            pipe.send_bytes(answer)
        except ConnectionError:
            return CLOSED
        if full:
            return RENEWED


def _resident_bytes() -> int:
    """Resident bytes of this process, including pages shared with the host."""
    pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    return pages * resource.getpagesize()


def _answer(tasks: CompileTasks, task: str, text: str) -> dict[str, Any]:
    try:
        return {"result": getattr(tasks, task)(text)}
    except ConstraintError as error:
        fields = ("message", "code", "pointer", "keyword")
        return {"error": {name: getattr(error, name) for name in fields}}
    except MemoryError:
        return {"error": {"message": TOO_LARGE, "code": "schema_too_complex"}}
    except RecursionError:
        return {"error": {"message": TOO_DEEP, "code": "schema_too_complex"}}
    except BaseException as error:  # a panic of Rust is no Exception
        return {"failed": _place(error)}


def _place(error: BaseException) -> str:
    """The exception's type and source lines, without its message, which may quote a client."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    return f"{type(error).__name__} in {', '.join(places)}"


if __name__ == "__main__":
    main(sys.argv[1:])
