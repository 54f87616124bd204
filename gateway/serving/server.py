"""One server's life: the listening socket, the engine client, the application and uvicorn, in one
event loop. It owns the order of starting and stopping.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvicorn
import uvloop
from starlette.types import ASGIApp

from formgate.constrain.heap import Heap
from formgate.engine.config import EngineConfig
from formgate.engine.messages import EngineReady
from formgate.gateway.http.app import create_app
from formgate.gateway.http.http_protocol import BoundedHttpProtocol, ConnectionLimits
from formgate.gateway.http.response_counter import NO_ROUTE
from formgate.gateway.http.shutdown import ShutdownRequest, catch_signals, drain
from formgate.gateway.http.state import GatewayState
from formgate.gateway.logs import set_up_logging
from formgate.gateway.metrics import Metrics
from formgate.gateway.processes.engine_client import EngineClient
from formgate.gateway.processes.engine_launch import ENGINE_COMMAND
from formgate.gateway.processes.engine_supervisor import EngineStartError
from formgate.gateway.processes.heap_trimmer import HeapTrimmer
from formgate.gateway.processes.socket_folder import socket_folder
from formgate.gateway.served_models import ServedModels
from formgate.gateway.server_config import ServerConfig, share_of
from formgate.gateway.serving.api_fleet import ApiFleet, metrics_of
from formgate.gateway.serving.assembly import build_state, max_in_flight
from formgate.gateway.serving.console import StartupProgress, say
from formgate.gateway.serving.listener import url_of
from formgate.gateway.serving.open_files import connections_within, raise_open_files

CLOSE_TIMEOUT = 5  # seconds for connections to close once no answer is running

GC_THRESHOLD = 20_000  # allocations minus frees that start a young collection


class ServeError(Exception):
    """The server cannot start. The message is one line for the operator."""


@dataclass(frozen=True)
class _Launch:
    """What a server is started with. The listener is bound."""

    config: ServerConfig
    engine_config: EngineConfig
    tokenizer_dir: Path
    listener: socket.socket
    engine_command: Sequence[str]


def run_server(
    config: ServerConfig,
    engine_config: EngineConfig,
    tokenizer_dir: Path,
    listener: socket.socket,
    *,
    engine_command: Sequence[str] = ENGINE_COMMAND,
) -> int:
    """Serve on a bound socket until SIGINT or SIGTERM. Returns the exit code; raises ServeError."""
    set_up_logging(config.log_level, config.log_format)
    raise_open_files()
    launch = _Launch(config, engine_config, tokenizer_dir, listener, engine_command)
    Heap().share_one_arena()
    return uvloop.run(_serve(launch))


async def _serve(launch: _Launch) -> int:
    try:
        folder = socket_folder()
    except OSError as error:
        raise ServeError(f"cannot create a folder for the server's sockets: {error}.") from None
    with folder:
        process = _FirstProcess(launch, Path(folder.name))
        was_ready = await process.run()
    return process.shutdown.exit_code(was_ready=was_ready)


class _FirstProcess:
    """The HTTP process that owns the engine and the fleet of further HTTP processes. `folder`
    holds the sockets between them.
    """

    def __init__(self, launch: _Launch, folder: Path) -> None:
        config = launch.config
        self._launch = launch
        self.shutdown = ShutdownRequest()
        self._fleet = ApiFleet(folder, config, self.shutdown.ask)
        self._models = ServedModels.of(config)
        self._metrics = Metrics(self._models.default)
        self._progress = StartupProgress()
        self._shared = metrics_of(folder, self._metrics, 0, config.api_server_count)
        self._engine = EngineClient(
            launch.engine_config,
            self._metrics,
            tokenizer_dir=launch.tokenizer_dir,
            max_in_flight=max_in_flight(config, launch.engine_config, 0),
            on_progress=self._progress.show,
            command=(*launch.engine_command, config.log_level, config.log_format),
            more_clients=self._fleet.client_addresses,
            on_death=self._fleet.report_engine_death,
            timeout=config.engine_timeout,
        )

    async def run(self) -> bool:
        """True if the server was ready before it was asked to stop. Raises ServeError."""
        catch_signals(self.shutdown, self._stop_fleet)
        state: GatewayState | None = None
        await self._engine.start()  # loads while this process builds the application
        try:
            state = await self._build()
            return await self._serve(
                http_server(self._launch.config, create_app(state), self._metrics)
            )
        finally:
            await self._fleet.wait_stopped()  # its last answers need the engine
            self._shared.close()
            await self._engine.close()
            if state is not None:
                state.compiling.close()

    def _stop_fleet(self) -> None:
        shutdown = self.shutdown
        self._fleet.stop(at_once=shutdown.forced.is_set(), later=shutdown.later)

    async def _build(self) -> GatewayState:
        launch = self._launch
        try:
            await self._fleet.start(launch.engine_config, launch.tokenizer_dir, launch.listener)
            await self._shared.start()
            return await asyncio.to_thread(
                build_state,
                launch.config,
                launch.engine_config,
                launch.tokenizer_dir,
                self._models,
                self._metrics,
                self._engine,
                self._shared.exposition,
                number=0,
                shutdown=self.shutdown,
            )
        except (OSError, ValueError) as error:
            raise ServeError(str(error)) from None

    async def _serve(self, server: _Server) -> bool:
        keep_what_is_loaded()
        HeapTrimmer().start()
        config, shutdown, engine = self._launch.config, self.shutdown, self._engine
        serving = asyncio.create_task(server.serve(sockets=[self._launch.listener]))
        draining = asyncio.create_task(drain(shutdown, server, engine, config))
        starting = asyncio.create_task(self._all_ready())
        try:
            with self._progress:
                await asyncio.wait((starting, serving), return_when=asyncio.FIRST_COMPLETED)
            was_ready = starting.done() and starting.exception() is None
            if starting.done() and not shutdown.asked.is_set():
                try:
                    self._announce(starting.result())
                except EngineStartError as error:
                    shutdown.ask()
                    await serving
                    raise ServeError(str(error)) from None
            await serving
        finally:
            starting.cancel()
            draining.cancel()
        if self._fleet.lost:
            raise ServeError(self._fleet.lost)
        return was_ready

    async def _all_ready(self) -> EngineReady:
        ready = await self._engine.wait_ready()
        await self._fleet.wait_ready()
        return ready

    def _announce(self, ready: EngineReady) -> None:
        url = url_of(self._launch.listener, self._launch.config)
        page = "" if self._launch.config.disable_playground else f"playground at {url}/playground, "
        say(
            f"formgate ready: {url} — model {self._models.default} — "
            f"{ready.max_model_len} tokens context, {page}docs at {url}/docs"
        )


def keep_what_is_loaded() -> None:
    """Exclude the objects that exist now from garbage collection: they live as long as the process.
    Raise the threshold, since the dicts of streamed chunks form no cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)


class _Server(uvicorn.Server):
    """uvicorn with limits on connections, and without its signal handlers, which end the process
    before the engine is closed."""

    def __init__(
        self, settings: uvicorn.Config, limits: ConnectionLimits, count: Callable[[int], None]
    ) -> None:
        super().__init__(settings)
        self._limits = limits
        self._count = count

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets is not None, "the listening socket is ours"
        loop = asyncio.get_running_loop()
        tls = self.config.ssl
        self.servers = [
            await loop.create_server(
                self._new_protocol,
                sock=listener,
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else self._limits.header_timeout,
                backlog=self.config.backlog,
            )
            for listener in sockets
        ]
        self.started = True

    def _new_protocol(self) -> BoundedHttpProtocol:
        return BoundedHttpProtocol(
            self.config, self.server_state, limits=self._limits, count=self._count
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_server(
    config: ServerConfig, app: ASGIApp, metrics: Metrics, *, number: int = 0
) -> _Server:
    """`number`: index of this HTTP process."""
    limits = ConnectionLimits(
        max_connections=connections_within(
            share_of(config.max_connections, number, config.api_server_count)
        ),
        header_timeout=config.client_header_timeout,
        body_timeout=config.client_body_timeout,
        send_timeout=config.send_timeout,
    )
    settings = uvicorn.Config(
        app,
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        root_path=config.root_path,
        ssl_keyfile=config.ssl_keyfile,
        ssl_certfile=config.ssl_certfile,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=CLOSE_TIMEOUT,
    )
    try:
        settings.load()
    except (OSError, ssl.SSLError) as error:
        raise ServeError(f"the certificate or its key cannot be used: {error}.") from None
    return _Server(settings, limits, partial(metrics.http_response, NO_ROUTE, "other"))
