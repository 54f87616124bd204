"""Compile workers: however one ends, it costs its own request, and the next one is served."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from unittest import mock

import pytest

from formgate.constrain.errors import ConstraintError
from formgate.constrain.masks.constraint import SizedConstraint
from formgate.gateway.errors import ApiError
from formgate.gateway.processes import compile_workers
from formgate.gateway.processes.compile_pool import CompilePool
from formgate.gateway.processes.compile_workers import WorkerFailed

SCRIPTED_WORKER = Path(__file__).parents[1].joinpath("scripted_worker.py")


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
        before = await obedient.compiles.ask("constraint", "fine")
        with pytest.raises(ConstraintError) as raised:
            await obedient.compiles.ask("constraint", text)
        assert raised.value.message == message
        assert raised.value.code == "schema_too_complex"
        after = await obedient.compiles.ask("constraint", "fine")
        assert process_of(after) != process_of(before)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_worker_that_dies_harms_no_other(
    obedient_of: Callable[[int], CompilePool],
) -> None:
    async def main() -> None:
        pool = obedient_of(2)
        await pool.compiles.ask("constraint", "fine")
        host = pool.workers.process_id
        slow = asyncio.create_task(pool.compiles.ask("constraint", "slow"))
        for text in ("crash", "work", "crash"):
            with pytest.raises(ConstraintError):
                await pool.compiles.ask("constraint", text)
        assert (await slow).endswith("slow")
        assert pool.workers.process_id == host

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_worker_that_dies_while_idle_costs_nothing(obedient: CompilePool) -> None:
    async def main() -> None:
        for _ in range(3):
            before = process_of(await obedient.compiles.ask("constraint", "fine"))
            os.kill(int(before), signal.SIGKILL)
            assert process_of(await obedient.compiles.ask("constraint", "fine")) != before

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.parametrize("text", ["raise", "panic"])
def test_an_exception_of_ours_is_no_fault_of_the_constraint(
    obedient: CompilePool, text: str
) -> None:
    async def main() -> None:
        before = await obedient.compiles.ask("constraint", "fine")
        with pytest.raises(WorkerFailed, match=r"(KeyError|Panic) in .*worker\.py:\d+ constraint"):
            await obedient.compiled("constraint", text)
        # The client's text, which the message quotes, is not in it; and the worker works on.
        with pytest.raises(WorkerFailed) as raised:
            await obedient.compiled("constraint", text)
        assert "secret" not in str(raised.value)
        assert await obedient.compiles.ask("constraint", "fine") == before

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_worker_that_ends_is_replaced_at_once(
    obedient: CompilePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_workers, "WALL_SECONDS", 1000.0)  # nobody waits for it

    async def main() -> None:
        before = process_of(await obedient.compiles.ask("constraint", "fine"))
        host = obedient.workers.process_id
        with pytest.raises(WorkerFailed, match="exit code 7"):
            await obedient.compiled("constraint", "exit")
        assert process_of(await obedient.compiles.ask("constraint", "fine")) != before
        assert obedient.workers.process_id == host

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_constraint_that_recurses_is_refused(obedient: CompilePool) -> None:
    async def main() -> None:
        with pytest.raises(ConstraintError) as raised:
            await obedient.compiled("constraint", "recurse")
        assert raised.value.message == compile_workers.TOO_DEEP

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_worker_that_holds_much_memory_is_renewed_behind_its_answer(
    obedient: CompilePool,
) -> None:
    async def main() -> None:
        before = process_of(await obedient.compiles.ask("constraint", "fine"))
        assert await obedient.compiles.ask("constraint", "grow") == f"{before} grow"
        after = process_of(await obedient.compiles.ask("constraint", "fine"))
        assert after != before
        assert process_of(await obedient.compiles.ask("constraint", "fine")) == after

    asyncio.run(asyncio.wait_for(main(), 30))


def test_workers_that_cannot_be_forked_are_missed_for_a_while(
    obedient: CompilePool, no_forks: Path
) -> None:
    async def main() -> None:
        await obedient.compiles.ask("constraint", "fine")
        host = obedient.workers.process_id
        no_forks.touch()
        with pytest.raises(ConstraintError):
            await obedient.compiles.ask("constraint", "crash")
        with pytest.raises(ApiError) as raised:
            await obedient.compiles.ask("constraint", "fine")
        assert (raised.value.status, raised.value.code) == (503, "compiler_unavailable")
        assert raised.value.headers["Retry-After"]
        no_forks.unlink()
        assert await eventually(lambda: obedient.compiles.ask("constraint", "fine"))
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
        program.write_text(SCRIPTED_WORKER.read_text())
        error = OSError(errno.EMFILE, "Too many open files")
        monkeypatch.setattr(compile_workers, "Pipe", mock.Mock(side_effect=error))
    pool = CompilePool(command, workers=1, observe=lambda seconds: None)

    async def main() -> None:
        for _ in range(3):  # the last ones without an attempt
            with pytest.raises(ApiError) as raised:
                await pool.compiled("constraint", "fine")
            assert raised.value.status == 503
        monkeypatch.undo()
        program.write_text(SCRIPTED_WORKER.read_text())
        if kind == "no program":
            (tmp_path / "run").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
            (tmp_path / "run").chmod(0o700)
        assert (await eventually(lambda: pool.compiled("constraint", "fine"))).endswith("fine")

    pool.start()
    try:
        asyncio.run(asyncio.wait_for(main(), 30))
    finally:
        pool.close()


def test_workers_that_lost_their_parent_are_started_anew(obedient: CompilePool) -> None:
    async def main() -> None:
        before = process_of(await obedient.compiles.ask("constraint", "fine"))
        host = obedient.workers.process_id
        assert host is not None
        os.kill(host, signal.SIGKILL)
        os.kill(int(before), signal.SIGKILL)
        assert process_of(await obedient.compiles.ask("constraint", "fine")) != before
        assert obedient.workers.process_id != host

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_client_that_leaves_does_not_free_a_busy_worker(obedient: CompilePool) -> None:
    async def main() -> None:
        first = process_of(await obedient.compiles.ask("constraint", "fine"))
        begun = asyncio.Event()
        leaving = asyncio.create_task(obedient.compiles.ask("constraint", "slow", begun.set))
        await begun.wait()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        # Its answer would be that of "slow", had the worker been given away.
        assert await obedient.compiles.ask("constraint", "next") == f"{first} next"

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_real_worker_answers_after_a_schema_that_is_nested_too_deeply(
    compile_pool: CompilePool,
) -> None:
    def spec(schema: str) -> str:
        return f'{{"tree": {{"kind": "json", "schema": {schema}}}}}'

    async def main() -> None:
        depth = 401
        with pytest.raises(ConstraintError) as raised:
            await compile_pool.compiled(
                "constraint", spec('{"items":' * depth + "{}" + "}" * depth)
            )
        assert raised.value.code == "schema_too_complex"
        assert (
            SizedConstraint.loads(
                await compile_pool.compiled("sized_constraint", spec('{"const": 12}'))
            ).tokens
            == 2
        )

    asyncio.run(asyncio.wait_for(main(), 30))
