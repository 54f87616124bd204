"""Whatever goes wrong with the engine process, requests end with an error and the next are served:
faults at each point of its supervision, a process that hangs, a folder with a long name."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
import zmq.asyncio

from formgate.engine.config import EngineConfig
from formgate.engine.messages import AddRequest
from formgate.engine.sampling_params import SamplingParams
from formgate.gateway.errors import ApiError
from formgate.gateway.metrics import Metrics
from formgate.gateway.processes import engine_supervisor
from formgate.gateway.processes.engine_client import EngineClient
from formgate.gateway.processes.process_watchdog import ProcessWatchdog
from formgate.gateway.processes.socket_folder import MAX_PATH_BYTES, SUFFIX_BYTES, socket_folder

COMMAND = (sys.executable, str(Path(__file__).parents[1].joinpath("scripted_engine.py")))
ENGINE_TIMEOUT = 2.0  # seconds
DIES, STOPS, GARBLES = 666, 777, 888  # prompts of the scripted engine


def add(request_id: str, prompt: int = 1, max_tokens: int = 5) -> AddRequest:
    return AddRequest(request_id, [prompt], SamplingParams(max_tokens=max_tokens))


async def tokens(client: EngineClient, request: AddRequest) -> list[int]:
    return [token async for output in client.generate(request) for token in output.token_ids]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def engines() -> list[int]:
    task = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    return [
        child
        for child in map(int, task.read_text().split())
        if b"scripted_engine" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


@pytest.fixture(autouse=True)
def _quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_supervisor, "FIRST_RESTART_DELAY", 0.01)


@asynccontextmanager
async def running(timeout: float = 0.0) -> AsyncIterator[EngineClient]:
    config = EngineConfig(model_dir=Path("any"), max_num_seqs=8)
    client = EngineClient(config, Metrics("m"), max_in_flight=16, command=COMMAND, timeout=timeout)
    await client.start()
    try:
        await client.wait_ready()
        yield client
    finally:
        await client.close()


def run(test: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 120))


async def ends_with_an_error_and_serves_again(
    client: EngineClient, prompt: int | None, prepare: Callable[[], None] = lambda: None
) -> None:
    """The engine ends because of `prompt`, or by what `prepare` does while requests run."""
    prompts = [1, 1] if prompt is None else [1, 1, prompt]
    victims = [
        asyncio.create_task(tokens(client, add(f"v{i}", prompt, max_tokens=10**6)))
        for i, prompt in enumerate(prompts)
    ]
    await asyncio.sleep(0)
    assert client.num_in_flight == len(victims)
    prepare()
    for error in await asyncio.gather(*victims, return_exceptions=True):
        assert isinstance(error, ApiError), error
        assert (error.status, error.code) == (503, "engine_died")
    await until(lambda: client.state == "ready")
    assert await tokens(client, add("after", max_tokens=2)) == [1, 2]
    assert client.num_in_flight == 0


FAULTS = [
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.ENOSPC, "No space left on device"),
    zmq.ZMQError(errno.EMFILE),
    zmq.ZMQError(errno.ENOTSOCK),
    msgspec.DecodeError("truncated"),
    MemoryError(),
    RuntimeError("a bug"),
]
# Where each engine's end and each start pass; and, with True, where an engine that runs does.
POINTS: list[tuple[object, str, bool]] = [
    (engine_supervisor, "socket_folder", False),
    (engine_supervisor, "bind_sockets", False),
    (engine_supervisor, "start_engine_process", False),
    (engine_supervisor, "stop_engine_process", False),
    (engine_supervisor.EngineSupervisor, "_watch", False),
    (engine_supervisor.ProcessWatchdog, "__init__", False),
    (engine_supervisor.ProcessWatchdog, "_count", True),
    (zmq.Context, "socket", False),
    (zmq.asyncio.Socket, "recv", True),
    (EngineClient, "engine_step", True),
    (Metrics, "engine_ready", False),
    (Metrics, "engine_step", True),
]


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point[1])
def test_a_fault_anywhere_ends_what_is_in_flight_and_is_overcome(
    point: tuple[object, str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, by_itself = point
    real = getattr(owner, name)
    faults: list[BaseException] = []

    def faulty(*args: Any, **options: Any) -> Any:
        if faults:
            raise faults.pop()
        return real(*args, **options)

    async def test() -> None:
        async with running(timeout=ENGINE_TIMEOUT) as client:
            monkeypatch.setattr(owner, name, faulty)
            for fault in FAULTS:
                # A start that fails is tried again: twice here, before it succeeds.
                once = by_itself or name == "stop_engine_process"
                armed = [fault] if once else [fault, fault]
                await ends_with_an_error_and_serves_again(
                    client, None if by_itself else DIES, partial(faults.extend, armed)
                )
                assert not faults
            assert len(engines()) == 1
        assert not engines()

    run(test)


def test_a_fault_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, fails = engine_supervisor.bind_sockets, [True]

    def bind_sockets(*args: Any) -> None:
        if fails.pop():
            raise zmq.ZMQError(errno.EMFILE)
        real(*args)

    async def test() -> None:
        async with running() as client:
            monkeypatch.setattr(engine_supervisor, "bind_sockets", bind_sockets)
            fails[:] = [False, True]
            await ends_with_an_error_and_serves_again(client, DIES)

    with caplog.at_level(logging.ERROR):
        run(test)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(" It is started")[0] for line in lines] == [
        "The engine process ended with exit code 9.",
        "The engine process cannot be started: ZMQError: Too many open files.",
    ]
    assert not any(record.exc_info for record in caplog.records)


def test_a_message_that_cannot_be_read_is_the_end_of_the_engine() -> None:
    async def test() -> None:
        async with running() as client:
            await ends_with_an_error_and_serves_again(client, GARBLES)

    run(test)


def test_an_engine_that_hangs_is_killed_and_started_again() -> None:
    async def test() -> None:
        async with running(timeout=ENGINE_TIMEOUT) as client:
            (hung,) = engines()
            await ends_with_an_error_and_serves_again(client, STOPS)
            (new,) = engines()
            assert new != hung
            # It hangs while nothing is asked of it, too.
            os.kill(new, signal.SIGSTOP)
            await until(lambda: client.state != "ready")
            await until(lambda: client.state == "ready")
            assert await tokens(client, add("after", max_tokens=2)) == [1, 2]

    run(test)


def test_an_engine_that_stops_for_less_than_the_timeout_goes_on() -> None:
    async def test() -> None:
        async with running(timeout=600.0) as client:
            task = asyncio.create_task(tokens(client, add("slow", STOPS)))
            (engine,) = engines()
            await until(lambda: " T " in Path(f"/proc/{engine}/stat").read_text())
            os.kill(engine, signal.SIGCONT)
            await until(lambda: " T " in Path(f"/proc/{engine}/stat").read_text())
            assert client.state == "ready"
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            os.kill(engine, signal.SIGCONT)

    run(test)


BUSY = "while True: pass"
IDLE = "import time; time.sleep(600)"


@pytest.fixture
def child() -> Iterator[Callable[[str], int]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(program: str) -> int:
        started.append(subprocess.Popen([sys.executable, "-c", program]))
        return started[-1].pid

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("program", "device", "hangs"),
    [
        (BUSY, "cpu", 10.0),  # a long prefill on a slow machine
        (BUSY, "cuda", 1.0),  # a thread that waits for a kernel spins
        (IDLE, "cpu", 1.0),
        (IDLE, "cuda", 1.0),
        (BUSY, None, None),  # a start takes as long as it takes
        (IDLE, None, 1.0),
    ],
)
def test_a_process_at_work_on_a_cpu_has_more_time(
    child: Callable[[str], int], program: str, device: str | None, hangs: float | None
) -> None:
    """`hangs`: after how many times the timeout."""
    process = child(program)
    while program == IDLE and " S " not in Path(f"/proc/{process}/stat").read_text():
        pass
    watchdog = ProcessWatchdog(process, timeout=1.0)
    if device is not None:
        watchdog.ready(device)
    watchdog.heard()
    watchdog._count(0.1)
    silence = 0.0
    while not watchdog.hangs and silence < 20.05:
        watchdog._count(0.1)
        silence += 0.1
    # The first look at a process finds that it has used a processor before.
    assert 0 <= silence - (hangs or 20) < 0.25


@pytest.mark.parametrize("length", [20, 77, 78, 90, 300])
def test_sockets_find_a_short_folder(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        parent = Path(short)
        while (missing := length - len(str(parent))) > 1:
            parent /= "d" * min(100, missing - 1)
        parent.mkdir(parents=True, exist_ok=True)
        look_for_sockets_in(parent, monkeypatch)


def look_for_sockets_in(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(parent))

    async def test() -> None:
        async with running() as client:
            assert await tokens(client, add("r", max_tokens=2)) == [1, 2]

    run(test)
    fits = len(str(parent)) + SUFFIX_BYTES <= MAX_PATH_BYTES
    with socket_folder() as folder:
        assert Path(folder).is_relative_to(parent) == fits


def test_no_folder_is_short_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("d" * 100)))
    monkeypatch.setattr(
        "formgate.gateway.processes.socket_folder.OTHER_PARENTS", (str(tmp_path / "none"),)
    )
    with pytest.raises(OSError, match="too long for a Unix socket"):
        socket_folder()
