"""The further HTTP processes of a server. The first process, which owns the engine, starts them,
reports the engine's death to them, replaces one that dies or hangs, and stops them. The kernel
distributes connections between their sockets on one port.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from formgate.engine.config import EngineConfig, decode_path, encode_path
from formgate.gateway.metrics import Metrics
from formgate.gateway.processes.process_watchdog import ProcessWatchdog
from formgate.gateway.server_config import ServerConfig
from formgate.gateway.serving.shared_metrics import SharedMetrics

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "formgate.gateway.serving.api_server")
STOP_TIMEOUT = 10.0  # seconds beyond `shutdown_delay` and `shutdown_timeout`
FIRST_RESTART_DELAY = 0.5  # seconds; doubles with each start that fails
MAX_RESTART_DELAY = 30.0
MAX_SILENCE = 10.0  # seconds; `engine_timeout`, if that is less

# To a further process.
DEAD_ENGINE = b"dead\n"
STOP = b"stop\n"  # a second one: at once
STOP_LATER = b"stop later\n"  # after `shutdown_delay`
# From a further process.
READY = b"ready\n"
ALIVE = b"alive\n"  # once a second


class ApiLaunch(msgspec.Struct):
    """The first line, JSON, of a further process' standard input. A later line is one of those
    above; the end of input means that the first process is gone."""

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
        exits before it was ever ready; `lost` then holds the reason in one line."""
        self.lost: str | None = None
        self._folder = folder
        self._config = config
        self._numbers = range(1, config.api_server_count)
        self._on_lost = on_lost
        self._members: list[_Member] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    @property
    def client_addresses(self) -> list[tuple[str, str]]:
        return [client_addresses(self._folder, number) for number in self._numbers]

    async def start(
        self, engine_config: EngineConfig, tokenizer_dir: Path, listener: socket.socket
    ) -> None:
        """Raises OSError if a process cannot be started."""
        for number in self._numbers:
            # Lets the process bind the same port. Set only after the listener was bound, so that
            # a port in use by another server was refused.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            host, port = listener.getsockname()[:2]
            launch = ApiLaunch(
                number=number,
                folder=self._folder,
                family=int(listener.family),
                address=(host, port),
                config=self._config,
                engine_config=engine_config,
                tokenizer_dir=tokenizer_dir,
            )
            member = _Member(launch)
            await member.start()
            self._members.append(member)
            self._keepers.append(asyncio.create_task(self._keep(member)))

    async def wait_ready(self) -> None:
        """Return once each process would answer or has exited."""
        await asyncio.gather(*(member.settled.wait() for member in self._members))

    def report_engine_death(self) -> None:
        for member in self._members:
            member.tell(DEAD_ENGINE)

    def stop(self, *, at_once: bool = False, later: bool = False) -> None:
        """Ask each process to finish its answers, or with `at_once` to abort them; with `later`, to
        take requests for `shutdown_delay` seconds before."""
        if self._stopping.is_set() and not at_once:
            return
        self._stopping.set()
        for member in self._members:
            member.stop(STOP_LATER if later and not at_once else STOP * (1 + at_once))

    async def wait_stopped(self) -> None:
        self.stop()
        config = self._config
        timeout = config.shutdown_delay + config.shutdown_timeout + STOP_TIMEOUT
        await asyncio.gather(*(member.end(timeout) for member in self._members))
        await asyncio.gather(*self._keepers)

    async def _keep(self, member: _Member) -> None:
        """Replace a process that ends unasked. If it was never ready, the server ends."""
        delay = FIRST_RESTART_DELAY
        while True:
            failure = await member.run()
            if self._stopping.is_set():
                return
            if not member.was_ever_ready:
                self.lost = failure
                self.stop()
                self._on_lost()
                return
            delay = FIRST_RESTART_DELAY if member.was_ready else min(2 * delay, MAX_RESTART_DELAY)
            logger.error("%s It is started again in %.1f s.", failure, delay)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
                return


class _Member:
    """One further process after another, of one number."""

    def __init__(self, launch: ApiLaunch) -> None:
        self.settled = asyncio.Event()  # the first process is ready or has exited
        self.was_ever_ready = False
        self.was_ready = False  # the current process
        self._launch = launch
        self._name = f"HTTP process {launch.number}"
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    async def start(self) -> None:
        """Raises OSError."""
        self.was_ready = False
        # A session of its own: Ctrl-C must reach the first process only, which stops this one.
        self._process = await asyncio.create_subprocess_exec(
            *COMMAND,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        if self._stopping:  # asked for meanwhile
            _kill(self._process)
        self.tell(self._launch.encode())

    async def run(self) -> str:
        """Run one process to its end; kill it if it hangs. Returns the reason in one line."""
        try:
            if self._process is None:
                await self.start()
            return await self._watch()
        except OSError as error:  # out of memory or descriptors
            return f"{self._name} cannot be started: {error}."
        finally:
            self._process = None
            self.settled.set()

    async def _watch(self) -> str:
        process = self._process
        assert process is not None
        timeout = min(MAX_SILENCE, self._launch.config.engine_timeout)
        watchdog = ProcessWatchdog(process.pid, timeout, self._name)
        reading = asyncio.create_task(self._read(process, watchdog))
        ended = asyncio.create_task(process.wait())
        hung = asyncio.create_task(watchdog.wait_hung())
        try:
            await asyncio.wait((ended, hung), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                _kill(process)
                await ended
                return hung.result()
        finally:
            for task in (reading, hung):
                task.cancel()
            await asyncio.gather(reading, hung, return_exceptions=True)
        code = ended.result()
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return f"{self._name} ended {how}."

    async def _read(self, process: asyncio.subprocess.Process, watchdog: ProcessWatchdog) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            watchdog.heard()
            if line == READY:
                watchdog.ready("cpu")
                self.was_ready = self.was_ever_ready = True
                self.settled.set()

    def stop(self, line: bytes) -> None:
        self._stopping = True
        self.tell(line)

    def tell(self, line: bytes) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, RuntimeError):  # it has exited: `run` reports that
            self._process.stdin.write(line)

    async def end(self, timeout: float) -> None:
        """Wait up to `timeout` seconds until the process exits, then kill it."""
        process = self._process
        if process is None:
            return
        try:
            await asyncio.wait_for(process.wait(), timeout)
        except TimeoutError:
            _kill(process)
            await process.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
