"""The further HTTP processes of a server. The first process, which owns the engine, starts them,
reports the engine's death to them, and stops them. The kernel distributes connections between
their sockets on one port.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from formgate.engine.config import EngineConfig, decode_path, encode_path
from formgate.gateway.metrics import Metrics
from formgate.gateway.server_config import ServerConfig
from formgate.gateway.serving.shared_metrics import SharedMetrics

COMMAND = (sys.executable, "-m", "formgate.gateway.serving.api_server")
STOP_TIMEOUT = 10.0  # seconds beyond `shutdown_timeout`
DEAD_ENGINE = b"dead\n"
STOP = b"stop\n"  # a second one: at once


class ApiLaunch(msgspec.Struct):
    """The first line, JSON, of a further process' standard input. A later line is `DEAD_ENGINE` or
    `STOP`; the end of input means that the first process is gone."""

    number: int  # from 1
    folder: Path  # of the sockets that the processes share
    family: int
    address: tuple[str, int]
    config: ServerConfig
    engine_config: EngineConfig
    tokenizer_dir: Path

    def encode(self) -> bytes:
        return msgspec.json.encode(self, enc_hook=encode_path) + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> ApiLaunch:
        return msgspec.json.decode(line, type=cls, dec_hook=decode_path)


def client_addresses(folder: Path, number: int) -> tuple[str, str]:
    """The addresses of a process' command socket and event socket."""
    return f"ipc://{folder}/commands-{number}", f"ipc://{folder}/events-{number}"


def metrics_path(folder: Path, number: int) -> Path:
    return folder / f"metrics-{number}"


def metrics_of(folder: Path, metrics: Metrics, number: int, count: int) -> SharedMetrics:
    """The metrics of process `number` of `count`."""
    peers = [metrics_path(folder, peer) for peer in range(count) if peer != number]
    return SharedMetrics(metrics, metrics_path(folder, number), peers)


class ApiFleet:
    """The HTTP processes other than the first; none if `api_server_count` is 1."""

    def __init__(self, folder: Path, config: ServerConfig, on_lost: Callable[[], None]) -> None:
        """`folder` holds the sockets between the processes. `on_lost` is called when a process
        exits unasked; `lost` then holds the reason in one line."""
        self.lost: str | None = None
        self._folder = folder
        self._config = config
        self._numbers = range(1, config.api_server_count)
        self._on_lost = on_lost
        self._processes: list[asyncio.subprocess.Process] = []
        self._watchers: list[asyncio.Task[None]] = []
        self._stopping = False

    @property
    def client_addresses(self) -> list[tuple[str, str]]:
        return [client_addresses(self._folder, number) for number in self._numbers]

    async def start(
        self, engine_config: EngineConfig, tokenizer_dir: Path, listener: socket.socket
    ) -> None:
        for number in self._numbers:
            # Lets the process bind the same port. Set only after the listener was bound, so that
            # a port in use by another server was refused.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            host, port = listener.getsockname()[:2]
            # A session of its own: Ctrl-C must reach the first process only, which stops this one.
            process = await asyncio.create_subprocess_exec(
                *COMMAND,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            self._processes.append(process)
            launch = ApiLaunch(
                number=number,
                folder=self._folder,
                family=int(listener.family),
                address=(host, port),
                config=self._config,
                engine_config=engine_config,
                tokenizer_dir=tokenizer_dir,
            )
            self._tell(process, launch.encode())
            self._watchers.append(asyncio.create_task(self._watch(number, process)))

    async def wait_ready(self) -> None:
        """Return once each process is ready or has exited."""
        for process in self._processes:
            assert process.stdout is not None
            await process.stdout.readline()

    def report_engine_death(self) -> None:
        for process in self._processes:
            self._tell(process, DEAD_ENGINE)

    def stop(self, *, at_once: bool = False) -> None:
        """Ask each process to finish its answers, or with `at_once` to abort them."""
        if self._stopping and not at_once:
            return
        self._stopping = True
        for process in self._processes:
            self._tell(process, STOP * (1 + at_once))

    async def wait_stopped(self) -> None:
        self.stop()
        timeout = self._config.shutdown_timeout + STOP_TIMEOUT
        await asyncio.gather(*(self._end(process, timeout) for process in self._processes))
        await asyncio.gather(*self._watchers)

    async def _end(self, process: asyncio.subprocess.Process, timeout: float) -> None:
        try:
            await asyncio.wait_for(process.wait(), timeout)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _watch(self, number: int, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        if not self._stopping:
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            self.lost = f"HTTP process {number} ended {how}."
            self.stop()
            self._on_lost()

    def _tell(self, process: asyncio.subprocess.Process, line: bytes) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError, RuntimeError):  # it has exited: its watcher reports that
            process.stdin.write(line)
