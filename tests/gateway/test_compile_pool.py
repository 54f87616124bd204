"""The compile pool: what a constraint may cost, and that the next one is served."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from formgate.constrain.errors import ConstraintError
from formgate.gateway import compile_pool as pools
from formgate.gateway import compile_workers
from formgate.gateway.compile_pool import CompilePool

# Speaks a worker's protocol and does what the task's text says.
WORKER = """
import os, sys, time
from functools import partial
from multiprocessing.connection import Connection
from formgate.gateway import compile_worker
from formgate.gateway.compile_host import CompileHost

compile_worker.CPU_SECONDS = 0.2
compile_worker.WALL_SECONDS = 0.6


class Tasks:
    def blueprint(self, text):
        while text == "work":
            pass
        if text == "hang":
            time.sleep(60)
        if text == "crash":
            os.abort()
        if text == "slow":
            time.sleep(0.3)
        return f"{os.getpid()} {text}"

    sized_blueprint = blueprint


serve = partial(compile_worker.serve, Tasks())
CompileHost(serve, [Connection(int(number)) for number in sys.argv[1:]]).run()
"""


@pytest.fixture
def busy() -> list[float]:
    """For how long the worker was busy with each thing that it was asked."""
    return []


@pytest.fixture
def obedient_of(
    tmp_path: Path, busy: list[float], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[int], CompilePool]]:
    script = tmp_path / "worker.py"
    script.write_text("import resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))" + WORKER)
    monkeypatch.setattr(compile_workers, "WALL_SECONDS", 2.0)
    with ExitStack() as stack:

        def make(workers: int) -> CompilePool:
            command = (sys.executable, str(script))
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
            await asyncio.sleep(0.05)
            assert process_of(await obedient.compiles.ask("blueprint", "fine")) != before

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
        leaving = asyncio.create_task(obedient.compiles.ask("blueprint", "slow"))
        await asyncio.sleep(0.05)
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
        await asyncio.sleep(0.05)
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
