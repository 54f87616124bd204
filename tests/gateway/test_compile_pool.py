"""The compile pool: what a constraint may cost, and that the next one is served."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import pytest

from formgate.constrain.errors import ConstraintError
from formgate.gateway import compile_pool as pools
from formgate.gateway import compile_workers
from formgate.gateway.compile_pool import CompilePool
from formgate.gateway.compile_workers import WorkerFailed
from formgate.gateway.errors import ApiError

# Speaks a worker's protocol and does what the task's text says. Its first argument is a file that
# keeps processes from being forked.
WORKER = """
import os, resource, signal, sys, time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from formgate.gateway import compile_worker
from formgate.gateway.compile_host import CompileHost

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
compile_worker.CPU_SECONDS = 0.2
compile_worker.WALL_SECONDS = 1.0
compile_worker.KEPT_BYTES = 8 << 20
forbidden = Path(sys.argv[1])
fork = os.fork


def fork_or_fail():
    if forbidden.exists():
        raise BlockingIOError("Resource temporarily unavailable")
    return fork()


os.fork = fork_or_fail


class Panic(BaseException):
    pass


class Tasks:
    def blueprint(self, text):
        while text == "work":
            pass
        if text == "hang":
            time.sleep(60)
        if text == "ignore":
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            time.sleep(60)
        if text == "crash":
            os.abort()
        if text == "exit":
            os._exit(7)
        if text == "raise":
            raise KeyError("secret")
        if text == "panic":
            raise Panic("secret")
        if text == "recurse":
            return self.blueprint(text)
        if text == "grow":
            self.kept = bytearray(b"x") * (16 << 20)
        if text.startswith("slow"):
            time.sleep(0.3)
        return f"{os.getpid()} {text}"

    sized_blueprint = blueprint


serve = partial(compile_worker.serve, Tasks())
CompileHost(serve, [Connection(int(number)) for number in sys.argv[2:]]).run()
"""


@pytest.fixture
def busy() -> list[float]:
    """For how long the worker was busy with each thing that it was asked."""
    return []


@pytest.fixture
def no_forks(tmp_path: Path) -> Path:
    """A file: as long as it exists, no worker can be started."""
    return tmp_path / "no_forks"


@pytest.fixture
def obedient_of(
    tmp_path: Path, no_forks: Path, busy: list[float], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[int], CompilePool]]:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    monkeypatch.setattr(compile_workers, "WALL_SECONDS", 3.0)
    with ExitStack() as stack:

        def make(workers: int) -> CompilePool:
            command = (sys.executable, str(script), str(no_forks))
            pool = CompilePool(command, workers=workers, observe=busy.append)
            stack.callback(pool.close)
            return pool

        yield make


@pytest.fixture
def obedient(obedient_of: Callable[[int], CompilePool]) -> CompilePool:
    return obedient_of(1)


def process_of(answer: str) -> str:
    return answer.split()[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("work", compile_workers.TOO_LONG),
        ("hang", compile_workers.TOO_LONG),
        ("ignore", compile_workers.TOO_LONG),
        ("crash", compile_workers.TOO_LARGE),
    ],
)
def test_a_worker_that_hangs_or_crashes_costs_its_own_request(
    obedient: CompilePool, text: str, message: str
) -> None:
    async def main() -> None:
        before = await obedient.compiles.ask("blueprint", "fine")
        with pytest.raises(ConstraintError) as raised:
            await obedient.compiles.ask("blueprint", text)
        assert raised.value.message == message
        assert raised.value.code == "schema_too_complex"
        after = await obedient.compiles.ask("blueprint", "fine")
        assert process_of(after) != process_of(before)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_worker_that_dies_harms_no_other(
    obedient_of: Callable[[int], CompilePool],
) -> None:
    async def main() -> None:
        pool = obedient_of(2)
        await pool.compiles.ask("blueprint", "fine")
        host = pool.workers.process_id
        slow = asyncio.create_task(pool.compiles.ask("blueprint", "slow"))
        for text in ("crash", "work", "crash"):
            with pytest.raises(ConstraintError):
                await pool.compiles.ask("blueprint", text)
        assert (await slow).endswith("slow")
        assert pool.workers.process_id == host

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_worker_that_dies_while_idle_costs_nothing(obedient: CompilePool) -> None:
    async def main() -> None:
        for _ in range(3):
            before = process_of(await obedient.compiles.ask("blueprint", "fine"))
            os.kill(int(before), signal.SIGKILL)
            assert process_of(await obedient.compiles.ask("blueprint", "fine")) != before

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.parametrize("text", ["raise", "panic"])
def test_an_exception_of_ours_is_no_fault_of_the_constraint(
    obedient: CompilePool, text: str
) -> None:
    async def main() -> None:
        before = await obedient.compiles.ask("blueprint", "fine")
        with pytest.raises(WorkerFailed, match=r"(KeyError|Panic) in .*worker\.py:\d+ blueprint"):
            await obedient.compiled("blueprint", text)
        # The client's text, which the message quotes, is not in it; and the worker works on.
        with pytest.raises(WorkerFailed) as raised:
            await obedient.compiled("blueprint", text)
        assert "secret" not in str(raised.value)
        assert await obedient.compiles.ask("blueprint", "fine") == before

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_worker_that_ends_is_replaced_at_once(
    obedient: CompilePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_workers, "WALL_SECONDS", 1000.0)  # nobody waits for it

    async def main() -> None:
        before = process_of(await obedient.compiles.ask("blueprint", "fine"))
        host = obedient.workers.process_id
        with pytest.raises(WorkerFailed, match="exit code 7"):
            await obedient.compiled("blueprint", "exit")
        assert process_of(await obedient.compiles.ask("blueprint", "fine")) != before
        assert obedient.workers.process_id == host

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_constraint_that_recurses_is_refused(obedient: CompilePool) -> None:
    async def main() -> None:
        with pytest.raises(ConstraintError) as raised:
            await obedient.compiled("blueprint", "recurse")
        assert raised.value.message == compile_workers.TOO_DEEP

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_worker_that_holds_much_memory_is_renewed_behind_its_answer(
    obedient: CompilePool,
) -> None:
    async def main() -> None:
        before = process_of(await obedient.compiles.ask("blueprint", "fine"))
        assert await obedient.compiles.ask("blueprint", "grow") == f"{before} grow"
        after = process_of(await obedient.compiles.ask("blueprint", "fine"))
        assert after != before
        assert process_of(await obedient.compiles.ask("blueprint", "fine")) == after

    asyncio.run(asyncio.wait_for(main(), 30))


def test_workers_that_cannot_be_forked_are_missed_for_a_while(
    obedient: CompilePool, no_forks: Path
) -> None:
    async def main() -> None:
        await obedient.compiles.ask("blueprint", "fine")
        host = obedient.workers.process_id
        no_forks.touch()
        with pytest.raises(ConstraintError):
            await obedient.compiles.ask("blueprint", "crash")
        with pytest.raises(ApiError) as raised:
            await obedient.compiles.ask("blueprint", "fine")
        assert (raised.value.status, raised.value.code) == (503, "compiler_unavailable")
        assert raised.value.headers["Retry-After"]
        no_forks.unlink()
        assert await eventually(lambda: obedient.compiles.ask("blueprint", "fine"))
        assert obedient.workers.process_id == host

    asyncio.run(asyncio.wait_for(main(), 30))


async def eventually(ask: Callable[[], Awaitable[str]]) -> str:
    """What is answered once there is a worker again."""
    while True:
        try:
            return await ask()
        except ApiError as error:
            if error.status != 503:
                raise
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", ["no program", "no descriptors", "ends at once"])
def test_a_host_that_cannot_start_is_tried_again_later(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "worker.py"
    command = [sys.executable, str(program), str(tmp_path / "no_forks")]
    if kind == "no program":
        command = [str(tmp_path / "run"), *command[1:]]
    if kind == "no descriptors":
        program.write_text(WORKER)
        error = OSError(errno.EMFILE, "Too many open files")
        monkeypatch.setattr(compile_workers, "Pipe", mock.Mock(side_effect=error))
    pool = CompilePool(command, workers=1, observe=lambda seconds: None)

    async def main() -> None:
        for _ in range(3):  # the last ones without an attempt
            with pytest.raises(ApiError) as raised:
                await pool.compiled("blueprint", "fine")
            assert raised.value.status == 503
        monkeypatch.undo()
        program.write_text(WORKER)
        if kind == "no program":
            (tmp_path / "run").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
            (tmp_path / "run").chmod(0o700)
        assert (await eventually(lambda: pool.compiled("blueprint", "fine"))).endswith("fine")

    pool.start()
    try:
        asyncio.run(asyncio.wait_for(main(), 30))
    finally:
        pool.close()


def test_what_nobody_waits_for_any_more_is_not_begun(
    obedient: CompilePool, busy: list[float]
) -> None:
    async def main() -> None:
        await obedient.compiled("blueprint", "fine")
        slow = asyncio.create_task(obedient.compiled("blueprint", "slow"))
        leaving = [asyncio.create_task(obedient.compiled("blueprint", text)) for text in "aabb"]
        staying = asyncio.create_task(obedient.compiled("blueprint", "b"))
        await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        await asyncio.gather(slow, staying, *leaving, return_exceptions=True)
        assert obedient.known("blueprint", "b") is not None
        assert obedient.known("blueprint", "a") is None
        assert len(busy) == 3
        assert (await obedient.compiled("blueprint", "a")).endswith("a")

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.parametrize(("limit", "value"), [("MOST_QUEUED", 2), ("QUEUED_BYTES", 4)])
def test_the_queue_is_bounded(
    obedient: CompilePool, limit: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        begun = asyncio.Event()
        await obedient.compiled("blueprint", "fine")
        slow = asyncio.create_task(obedient.compiles.ask("blueprint", "slow", begun.set))
        await begun.wait()
        monkeypatch.setattr(pools, limit, value)
        waiting = [
            asyncio.create_task(obedient.compiled("blueprint", text)) for text in ("aa", "bb")
        ]
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as raised:
            await obedient.compiled("blueprint", "cc")
        assert (raised.value.status, raised.value.code) == (429, "rate_limit_exceeded")
        assert int(raised.value.headers["Retry-After"]) >= 1
        assert (await obedient.compiled("blueprint", "aa")).endswith("aa")  # it has its place
        assert (await obedient.compiled("blueprint", "cc")).endswith("cc")
        await asyncio.gather(slow, *waiting)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_checks_of_answers_do_not_wait_for_compiles(obedient: CompilePool) -> None:
    async def main() -> None:
        await obedient.compiles.ask("blueprint", "fine")
        slow = [asyncio.create_task(obedient.compiled("blueprint", f"slow{i}")) for i in range(3)]
        await obedient.check("blueprint", "fine")
        assert not slow[-1].done()
        await asyncio.gather(*slow)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_workers_that_lost_their_parent_are_started_anew(obedient: CompilePool) -> None:
    async def main() -> None:
        before = process_of(await obedient.compiles.ask("blueprint", "fine"))
        host = obedient.workers.process_id
        assert host is not None
        os.kill(host, signal.SIGKILL)
        os.kill(int(before), signal.SIGKILL)
        assert process_of(await obedient.compiles.ask("blueprint", "fine")) != before
        assert obedient.workers.process_id != host

    asyncio.run(asyncio.wait_for(main(), 30))


def test_what_was_too_much_is_not_tried_again_soon(
    obedient: CompilePool, busy: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        for _ in range(3):
            with pytest.raises(ConstraintError) as raised:
                await obedient.compiled("blueprint", "crash")
            assert raised.value.message == compile_workers.TOO_LARGE
        assert len(busy) == 1
        monkeypatch.setattr(pools, "REFUSED_SECONDS", 0.0)
        for _ in range(2):
            with pytest.raises(ConstraintError):
                await obedient.compiled("sized_blueprint", "crash")
        assert len(busy) == 3

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_client_that_leaves_does_not_free_a_busy_worker(obedient: CompilePool) -> None:
    async def main() -> None:
        first = process_of(await obedient.compiles.ask("blueprint", "fine"))
        begun = asyncio.Event()
        leaving = asyncio.create_task(obedient.compiles.ask("blueprint", "slow", begun.set))
        await begun.wait()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        # Its answer would be that of "slow", had the worker been given away.
        assert await obedient.compiles.ask("blueprint", "next") == f"{first} next"

    asyncio.run(asyncio.wait_for(main(), 30))


def test_blueprints_are_kept_within_their_bytes(
    obedient: CompilePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        monkeypatch.setattr(pools, "CACHED_BYTES", 1000)
        texts = [letter * 200 for letter in "abc"]
        for text in texts:
            await obedient.compiled("blueprint", text)
        known = [obedient.known("blueprint", text) is not None for text in texts]
        assert known == [False, True, True]

    asyncio.run(asyncio.wait_for(main(), 30))


def test_who_asks_for_the_same_at_once_shares_one_compile(
    obedient: CompilePool, busy: list[float]
) -> None:
    async def main() -> None:
        waiting = [asyncio.create_task(obedient.compiled("blueprint", "slow")) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # whose compile the others wait for
        answers = await asyncio.gather(
            *waiting[1:],
            obedient.compiled("blueprint", "crash"),
            obedient.compiled("blueprint", "crash"),
            return_exceptions=True,
        )
        assert [str(answer).split()[-1] for answer in answers[:2]] == ["slow", "slow"]
        assert all(isinstance(answer, ConstraintError) for answer in answers[2:])
        assert len(busy) == 2
        assert busy[0] >= 0.3
        assert obedient.known("blueprint", "crash") is None

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_real_worker_answers_after_a_schema_that_is_nested_too_deeply(
    compile_pool: CompilePool,
) -> None:
    def spec(schema: str) -> str:
        return f'{{"tree": {{"kind": "json", "schema": {schema}}}}}'

    async def main() -> None:
        depth = 401
        with pytest.raises(ConstraintError) as raised:
            await compile_pool.compiled("blueprint", spec('{"items":' * depth + "{}" + "}" * depth))
        assert raised.value.code == "schema_too_complex"
        assert (
            json.loads(await compile_pool.compiled("sized_blueprint", spec('{"const": 12}')))[1]
            == 2
        )

    asyncio.run(asyncio.wait_for(main(), 30))
