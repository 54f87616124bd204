"""The engine client against a real child process: outputs, aborts, admission, death and restart."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import zmq

from formgate.engine.config import EngineConfig
from formgate.engine.messages import (
    AddRequest,
    Attach,
    EngineCommand,
    EngineReady,
    EngineStats,
    LoadProgress,
    StepOutputs,
    TokenOutput,
)
from formgate.engine.sampling_params import SamplingParams
from formgate.gateway.errors import ApiError, engine_died
from formgate.gateway.metrics import Metrics
from formgate.gateway.processes.engine_client import EngineClient
from formgate.gateway.processes.engine_supervisor import EngineStartError

COMMAND = (sys.executable, str(Path(__file__).parents[1].joinpath("scripted_engine.py")))


READY = EngineReady(2048, 100, 16, 300, "cpu", "float32")


def add(request_id: str, prompt: int = 1, max_tokens: int = 5) -> AddRequest:
    return AddRequest(request_id, [prompt], SamplingParams(max_tokens=max_tokens))


@asynccontextmanager
async def running(
    model: str = "any", *, max_in_flight: int = 16, **options: object
) -> AsyncIterator[EngineClient]:
    config = EngineConfig(model_dir=Path(model), max_num_seqs=8)
    client = EngineClient(
        config, Metrics("m"), max_in_flight=max_in_flight, command=COMMAND, **options
    )
    await client.start()
    try:
        yield client
    finally:
        await client.close()


def run(test: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 120))


async def tokens(client: EngineClient, request: AddRequest) -> list[int]:
    return [token async for output in client.generate(request) for token in output.token_ids]


async def aborted_and_running(client: EngineClient) -> list[int]:
    return await tokens(client, add("report", 0))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_a_follower_is_ready_once_its_commands_would_arrive(tmp_path: Path) -> None:
    """The engine connects its sockets one by one, and an address that is not yet bound only when
    it tries again."""

    async def test() -> None:
        addresses = f"ipc://{tmp_path}/commands", f"ipc://{tmp_path}/events"
        client = EngineClient(
            EngineConfig(model_dir=Path("any")), Metrics("m"), max_in_flight=1, client=1
        )
        with (
            zmq.Context() as context,
            context.socket(zmq.PULL) as commands,
            context.socket(zmq.PUSH) as events,
        ):
            await client.attach(*addresses)
            try:
                events.connect(addresses[1])
                events.send(msgspec.msgpack.encode(READY))
                await until((tmp_path / "commands").exists)
                await asyncio.sleep(0.2)
                with pytest.raises(ApiError, match="not ready"):
                    client.ensure_admission()
                commands.connect(addresses[0])
                await client.wait_ready()
                answer = asyncio.create_task(tokens(client, add("r")))
                received: list[EngineCommand] = []
                while len(received) < 2:
                    await until(lambda: commands.poll(0) != 0)
                    received.append(msgspec.msgpack.decode(commands.recv(), type=EngineCommand))
                assert received[0] == Attach(1)
                assert isinstance(received[1], AddRequest)
                step = StepOutputs([TokenOutput("r", [7], "stop")], EngineStats(0, 0, 0.0))
                events.send(msgspec.msgpack.encode(step))
                assert await answer == [7]
            finally:
                await client.close()

    run(test)


def test_each_request_gets_its_own_outputs_in_order() -> None:
    async def test() -> None:
        progress: list[LoadProgress] = []
        async with running(on_progress=progress.append) as client:
            ready = await client.wait_ready()
            assert (client.state, ready.max_model_len) == ("ready", 2048)
            assert progress == [LoadProgress("Loading weights", 1, 2)]
            counts = range(1, 8)
            answers = await asyncio.gather(
                *(tokens(client, add(f"r{n}", max_tokens=n)) for n in counts)
            )
            assert answers == [list(range(1, n + 1)) for n in counts]
            assert client.num_in_flight == 0
            text = client._metrics.exposition().decode()
            assert 'vllm:request_success_total{engine="0",finished_reason="length"' in text
            assert 'vllm:generation_tokens_total{engine="0",model_name="m"} 28.0' in text

    run(test)


@pytest.mark.parametrize("how", ["close", "cancel"])
def test_a_consumer_that_leaves_aborts_its_request(how: str) -> None:
    async def test() -> None:
        async with running() as client:
            await client.wait_ready()
            if how == "close":
                async with aclosing(client.generate(add("long", max_tokens=10**6))) as outputs:
                    await anext(outputs)
            else:
                begun = asyncio.Event()

                async def consume() -> None:
                    async for _ in client.generate(add("long", max_tokens=10**6)):
                        begun.set()

                task = asyncio.create_task(consume())
                await begun.wait()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            assert await aborted_and_running(client) == [1, 0]
            reason = "abort" if how == "cancel" else "stop"
            assert f'finished_reason="{reason}",model_name="m"}} 1.0' in (
                client._metrics.exposition().decode().replace('"stop",model_name="m"} 2.0', "")
                if how == "cancel"
                else client._metrics.exposition().decode().replace("} 2.0", "} 1.0")
            )

    run(test)


def test_requests_that_begin_before_their_constraint_is_known() -> None:
    async def test() -> None:
        async with running(max_in_flight=3) as client:
            await client.wait_ready()
            requests = [add("a", max_tokens=2), add("b", max_tokens=3)]
            await client.begin(requests)
            await client.begin(requests)  # again: nothing
            assert client.num_in_flight == 2
            with pytest.raises(ApiError, match="Too many"):
                await client.begin([add("c"), add("d")])
            ready = msgspec.structs.replace(requests[0], constraint="known by now")
            assert await tokens(client, ready) == [1, 2]
            client.abandon(requests)  # of which one has ended
            client.abandon(requests)
            assert client.num_in_flight == 0
            assert await aborted_and_running(client) == [1, 0]

    run(test)


def test_abort_of_an_unknown_request_is_nothing() -> None:
    async def test() -> None:
        async with running() as client:
            await client.wait_ready()
            client.abort(["nobody"])
            assert await aborted_and_running(client) == [0, 0]

    run(test)


def test_when_the_process_dies_requests_fail_and_a_new_one_serves_on() -> None:
    async def test() -> None:
        async with running() as client:
            await client.wait_ready()
            victims = [
                asyncio.create_task(tokens(client, add(f"v{i}", max_tokens=10**6)))
                for i in range(3)
            ]
            await until(lambda: client.num_in_flight == 3)
            with pytest.raises(ApiError) as killed:
                await tokens(client, add("killer", 666))
            assert (killed.value.status, killed.value.code) == (503, "engine_died")
            for victim in await asyncio.gather(*victims, return_exceptions=True):
                assert isinstance(victim, ApiError)
                assert victim.status == 503
            assert client.num_in_flight == 0
            with pytest.raises(ApiError) as refused:
                client.ensure_admission()
            assert (refused.value.status, refused.value.code) == (503, "engine_not_ready")
            await until(lambda: client.state == "ready")
            assert await tokens(client, add("after", max_tokens=2)) == [1, 2]
            assert "formgate:engine_restarts_total" in client._metrics.exposition().decode()

    run(test)


def test_a_request_the_engine_gives_up_is_a_500_or_its_own_fault() -> None:
    async def test() -> None:
        async with running() as client:
            await client.wait_ready()
            with pytest.raises(ApiError, match="No mask is left") as error:
                await tokens(client, add("r", 404))
            assert error.value.status == 500
            with pytest.raises(ApiError, match="Too much") as error:
                await tokens(client, add("r", 405))
            assert (error.value.status, error.value.param) == (400, "constraint")
            assert error.value.code == "schema_too_complex"

    run(test)


def test_a_full_queue_is_a_429_that_says_when_to_retry() -> None:
    async def test() -> None:
        async with running(max_in_flight=2) as client:
            await client.wait_ready()
            tasks = [
                asyncio.create_task(tokens(client, add(f"r{i}", max_tokens=50))) for i in range(2)
            ]
            await until(lambda: client.num_in_flight == 2)
            with pytest.raises(ApiError) as full:
                await tokens(client, add("late"))
            assert full.value.status == 429
            assert int(full.value.headers["Retry-After"]) >= 1
            assert [len(answer) for answer in await asyncio.gather(*tasks)] == [50, 50]
            assert await tokens(client, add("late", max_tokens=1)) == [1]

    run(test)


@pytest.mark.parametrize(
    ("model", "message"), [("broken", "no weights"), ("crash", "ended with exit code 7")]
)
def test_a_first_start_that_fails_is_final(model: str, message: str) -> None:
    async def test() -> None:
        async with running(model) as client:
            with pytest.raises(EngineStartError, match=message):
                await client.wait_ready()
            assert client.state == "dead"

    run(test)


def test_an_engine_program_that_cannot_be_run_is_a_first_start_that_fails(tmp_path: Path) -> None:
    async def test() -> None:
        config = EngineConfig(model_dir=Path("any"))
        nothing = (str(tmp_path / "nothing"),)
        client = EngineClient(config, Metrics("m"), max_in_flight=1, command=nothing)
        await client.start()
        with pytest.raises(EngineStartError, match=r"cannot be started: .*nothing"):
            await client.wait_ready()
        assert client.state == "dead"
        await client.close()

    run(test)


def test_an_engine_that_cannot_be_started_again_is_tried_until_it_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # a path that is short enough for a socket
    gone = folder / "gone"

    async def test() -> None:
        async with running() as client:
            await client.wait_ready()
            monkeypatch.setattr("tempfile.tempdir", str(gone))
            monkeypatch.setattr("formgate.gateway.processes.socket_folder.OTHER_PARENTS", ())
            with pytest.raises(ApiError) as died:
                await tokens(client, add("deadly", 666))
            assert died.value.code == "engine_died"
            await asyncio.sleep(1)  # longer than the first delay
            assert client.state == "dead"
            gone.mkdir()
            await until(lambda: client.state == "ready")
            assert await tokens(client, add("after", max_tokens=2)) == [1, 2]

    try:
        run(test)
    finally:
        shutil.rmtree(folder)


def test_a_request_that_fails_is_counted_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with running() as client:
            await client.wait_ready()

            def refuse(command: object) -> None:
                raise engine_died()

            with monkeypatch.context() as patched:
                patched.setattr(client, "_send", refuse)
                with pytest.raises(ApiError):
                    await tokens(client, add("r"))
            counted = [
                line
                for line in client._metrics.exposition().decode().splitlines()
                if line.startswith("vllm:request_success_total") and line.endswith(" 1.0")
            ]
            assert len(counted) == 1
            assert 'finished_reason="error"' in counted[0]

    run(test)


def test_close_ends_the_process_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def children() -> set[str]:
        return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())

    async def test() -> None:
        others = children()
        async with running() as client:
            await client.wait_ready()
            assert any(tmp_path.iterdir())
            assert children() > others
        assert children() <= others
        assert not any(tmp_path.iterdir())

    run(test)
