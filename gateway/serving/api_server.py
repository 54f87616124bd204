"""A further HTTP process of a server (`--api-server-count`): the same application on the same port,
with the engine of the first process. It exits when that process does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys

import uvloop

from formgate.constrain.heap import Heap
from formgate.gateway.http.app import create_app
from formgate.gateway.http.shutdown import ShutdownRequest, drain
from formgate.gateway.logs import set_up_logging
from formgate.gateway.metrics import Metrics
from formgate.gateway.processes.engine_client import EngineClient
from formgate.gateway.processes.engine_launch import leave_signals_to_parent
from formgate.gateway.processes.heap_trimmer import HeapTrimmer
from formgate.gateway.served_models import ServedModels
from formgate.gateway.serving.api_fleet import (
    ALIVE,
    DEAD_ENGINE,
    READY,
    STOP,
    STOP_LATER,
    ApiLaunch,
    client_addresses,
    metrics_of,
)
from formgate.gateway.serving.assembly import build_state, max_in_flight
from formgate.gateway.serving.console import say
from formgate.gateway.serving.listener import limit_unsent
from formgate.gateway.serving.server import ServeError, http_server, keep_what_is_loaded


def main() -> int:
    leave_signals_to_parent()
    # Unbuffered: the event loop reads the lines after the first.
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as pipe:
        launch = ApiLaunch.decode(pipe.readline())
    set_up_logging(launch.config.log_level, launch.config.log_format)
    try:
        Heap().share_one_arena()
        uvloop.run(_serve(launch))
    except (OSError, ValueError, ServeError) as error:
        say(f"formgate: error: {error}", sys.stderr)
        return 1
    return 0


async def _serve(launch: ApiLaunch) -> None:
    config, number, folder = launch.config, launch.number, launch.folder
    models = ServedModels.of(config)
    metrics = Metrics(models.default)
    engine = EngineClient(
        launch.engine_config,
        metrics,
        max_in_flight=max_in_flight(config, launch.engine_config, number),
        client=number,
    )
    shutdown = ShutdownRequest()
    # From the start: an engine's end must not be learnt after its successor's.
    listening = asyncio.create_task(_obey(engine, shutdown))
    living = asyncio.create_task(_tell_alive())
    await engine.attach(*client_addresses(folder, number))
    shared = metrics_of(folder, metrics, number, config.api_server_count)
    await shared.start()
    state = await asyncio.to_thread(
        build_state,
        config,
        launch.engine_config,
        launch.tokenizer_dir,
        models,
        metrics,
        engine,
        shared.exposition,
        number=number,
        shutdown=shutdown,
    )
    server = http_server(config, create_app(state), metrics, number=number)
    keep_what_is_loaded()
    HeapTrimmer().start()

    draining = asyncio.create_task(drain(shutdown, server, engine, config))
    starting = asyncio.create_task(engine.wait_ready())
    stopping = asyncio.create_task(shutdown.asked.wait())
    try:
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if shutdown.asked.is_set():
            return
        with socket.socket(launch.family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            limit_unsent(listener, config.send_timeout)
            listener.bind(launch.address)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started and not serving.done():
                await asyncio.sleep(0.01)
            _tell(READY)
            await serving
    finally:
        for task in (starting, stopping, draining, listening, living):
            task.cancel()
        shared.close()
        await engine.close()
        state.compiling.close()


async def _obey(engine: EngineClient, shutdown: ShutdownRequest) -> None:
    """Follow the commands of the first process until it is gone."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        if line == DEAD_ENGINE:
            engine.engine_ended()
        elif line == STOP:
            shutdown.ask()
        elif line == STOP_LATER:
            shutdown.ask(later=True)
    engine.engine_ended()
    shutdown.ask()
    shutdown.ask()


async def _tell_alive() -> None:
    """Until cancelled: let the first process see that this event loop runs."""
    os.set_blocking(sys.stdout.fileno(), False)  # the first process may be stopped for hours
    while True:
        _tell(ALIVE)
        await asyncio.sleep(1.0)


def _tell(line: bytes) -> None:
    with contextlib.suppress(OSError):  # the first process is gone
        os.write(sys.stdout.fileno(), line)


if __name__ == "__main__":
    sys.exit(main())
