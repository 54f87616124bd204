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
from functools import partial
from pathlib import Path

import uvicorn
import uvloop
from starlette.types import ASGIApp

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
    return uvloop.run(_serve(config, engine_config, tokenizer_dir, listener, engine_command))


async def _serve(
    config: ServerConfig,
    engine_config: EngineConfig,
    tokenizer_dir: Path,
    listener: socket.socket,
    engine_command: Sequence[str],
) -> int:
    shutdown = ShutdownRequest()
    try:
        folder = socket_folder()
    except OSError as error:
        raise ServeError(f"cannot create a folder for the server's sockets: {error}.") from None
    with folder:
        fleet = ApiFleet(Path(folder.name), config, shutdown.ask)

        def tell_fleet() -> None:
            fleet.stop(at_once=shutdown.forced.is_set())

        catch_signals(shutdown, tell_fleet)
        was_ready = await _serve_in(
            Path(folder.name),
            config,
            engine_config,
            tokenizer_dir,
            listener,
            engine_command,
            shutdown,
            fleet,
        )
    return shutdown.exit_code(was_ready=was_ready)


async def _serve_in(
    folder: Path,
    config: ServerConfig,
    engine_config: EngineConfig,
    tokenizer_dir: Path,
    listener: socket.socket,
    engine_command: Sequence[str],
    shutdown: ShutdownRequest,
    fleet: ApiFleet,
) -> bool:
    """True if the server was ready before it was asked to stop. `folder` holds the sockets between
    the HTTP processes."""
    models = ServedModels.of(config)
    metrics = Metrics(models.default)
    progress = StartupProgress()
    shared = metrics_of(folder, metrics, 0, config.api_server_count)
    engine = EngineClient(
        engine_config,
        metrics,
        tokenizer_dir=tokenizer_dir,
        max_in_flight=max_in_flight(config, engine_config, 0),
        on_progress=progress.show,
        command=(*engine_command, config.log_level, config.log_format),
        more_clients=fleet.client_addresses,
        on_death=fleet.report_engine_death,
        timeout=config.engine_timeout,
    )
    state: GatewayState | None = None
    starting: asyncio.Task[EngineReady] | None = None
    draining: asyncio.Task[None] | None = None
    await engine.start()  # loads while this process builds the application
    try:
        try:
            await fleet.start(engine_config, tokenizer_dir, listener)
            await shared.start()
            state = await asyncio.to_thread(
                build_state,
                config,
                engine_config,
                tokenizer_dir,
                models,
                metrics,
                engine,
                shared.exposition,
                number=0,
                shutdown=shutdown,
            )
        except (OSError, ValueError) as error:
            raise ServeError(str(error)) from None
        server = http_server(config, create_app(state), metrics)
        keep_what_is_loaded()
        HeapTrimmer().start()
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        draining = asyncio.create_task(drain(shutdown, server, engine, config.shutdown_timeout))
        starting = asyncio.create_task(_all_ready(engine, fleet))
        with progress:
            await asyncio.wait((starting, serving), return_when=asyncio.FIRST_COMPLETED)
        was_ready = starting.done() and starting.exception() is None
        if starting.done() and not shutdown.asked.is_set():
            try:
                ready = starting.result()
            except EngineStartError as error:
                shutdown.ask()
                await serving
                raise ServeError(str(error)) from None
            say(
                f"formgate ready: {(url := url_of(listener, config))} — model {models.default} — "
                f"{ready.max_model_len} tokens context, docs at {url}/docs"
            )
        await serving
        if fleet.lost:
            raise ServeError(fleet.lost)
        return was_ready
    finally:
        for task in (starting, draining):
            if task is not None:
                task.cancel()
        await fleet.wait_stopped()  # its last answers need the engine
        shared.close()
        await engine.close()
        if state is not None:
            state.compiling.close()


async def _all_ready(engine: EngineClient, fleet: ApiFleet) -> EngineReady:
    ready = await engine.wait_ready()
    await fleet.wait_ready()
    return ready


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
