"""Starts the engine process, and restarts it when it exits, hangs, or its sockets fail. It knows
the process and its sockets but no requests; it reports events to `EngineClient`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import msgspec
import zmq
import zmq.asyncio

from formgate.engine.adapter import AdapterSource
from formgate.engine.config import EngineConfig
from formgate.engine.messages import (
    AdaptersChanged,
    Attach,
    EngineEvent,
    EngineFailed,
    EngineIdle,
    EngineReady,
    LoadProgress,
    Shutdown,
    StepOutputs,
)
from formgate.gateway.processes.engine_launch import (
    ENGINE_COMMAND,
    EngineLaunch,
    start_engine_process,
    stop_engine_process,
)
from formgate.gateway.processes.process_watchdog import ProcessWatchdog
from formgate.gateway.processes.socket_folder import socket_folder

logger = logging.getLogger(__name__)

FIRST_RESTART_DELAY = 0.5  # seconds; doubles with each start that fails
MAX_RESTART_DELAY = 30.0
STOP_TIMEOUT = 5.0  # seconds for the engine process to exit by itself
CONNECT_TICK = 0.005  # seconds
LAST_WORDS_TIMEOUT = 0.2  # seconds for events that a dead process may have left in the socket
ENGINE_TIMEOUT = 60.0  # seconds that a step may take


class EngineStartError(Exception):
    """The first engine process did not become ready. The message is one line for the operator."""


class EngineUser(Protocol):
    """Receives the engine's events."""

    def engine_starting(self) -> None: ...

    def engine_ready(self, ready: EngineReady, commands: zmq.Socket[bytes]) -> None: ...

    def engine_step(self, step: StepOutputs) -> None: ...

    def engine_adapters(self, change: AdaptersChanged) -> None: ...

    def engine_ended(self) -> None:
        """All requests in flight are lost. May be called twice for one engine."""
        ...

    def events_lost(self) -> None:
        """The engine runs on, but outputs of some requests are lost."""
        ...


class EngineSupervisor:
    def __init__(
        self,
        user: EngineUser,
        config: EngineConfig,
        tokenizer_dir: Path,
        *,
        command: Sequence[str] = ENGINE_COMMAND,
        more_clients: Sequence[tuple[str, str]] = (),
        timeout: float = ENGINE_TIMEOUT,
        on_progress: Callable[[LoadProgress], None] | None = None,
        on_restart: Callable[[], None] | None = None,
        adapters: Callable[[], tuple[AdapterSource, ...]] | None = None,
    ) -> None:
        """`timeout`: see ProcessWatchdog. `adapters`: those that an engine that is started again
        has to load; None: the config's. `more_clients`: (command, event) addresses of the other
        processes that the engine serves. `on_restart` is called after a ready engine exits."""
        self._user = user
        self._config = config
        self._tokenizer_dir = tokenizer_dir
        self._command = tuple(command)
        self._more_clients = list(more_clients)
        self._timeout = timeout
        self._on_progress = on_progress
        self._on_restart = on_restart
        self._adapters = adapters
        self._was_ready = False  # the current process

    async def run(self) -> None:
        """Supervise until cancelled. Raises EngineStartError if the first start fails."""
        # One context for all processes: libzmq aborts if a new one finds no free descriptors.
        with zmq.Context() as context:
            delay = FIRST_RESTART_DELAY
            first = True
            while True:
                self._was_ready = False
                failure = await self._run_once(context)
                self._user.engine_ended()  # in case the run failed earlier
                if first and not self._was_ready:
                    raise EngineStartError(failure)
                first = False
                # What has become of an adapter must not keep the model from its clients.
                adapters = self._config.adapters if self._adapters is None else self._adapters()
                self._config = replace(self._config, adapters=adapters, skip_bad_adapters=True)
                delay = (
                    FIRST_RESTART_DELAY if self._was_ready else min(2 * delay, MAX_RESTART_DELAY)
                )
                logger.error("%s It is started again in %.1f s.", failure, delay)
                if self._on_restart is not None:
                    self._on_restart()
                await asyncio.sleep(delay)

    async def _run_once(self, context: zmq.Context[zmq.Socket[bytes]]) -> str:
        """Run one engine process to its end. Returns the reason for the end, in one line."""
        try:
            return await self._run_engine(context)
        except (OSError, zmq.ZMQError) as error:  # out of memory, descriptors or disk
            happened = "failed" if self._was_ready else "cannot be started"
            return f"The engine process {happened}: {_in_one_line(error)}."
        except msgspec.MsgspecError as error:
            return f"The engine process sent an invalid message: {_in_one_line(error)}."
        except Exception as error:
            logger.exception("Supervising the engine process failed")
            return f"The engine process failed: {_in_one_line(error)}."

    async def _run_engine(self, context: zmq.Context[zmq.Socket[bytes]]) -> str:
        self._user.engine_starting()
        with (
            socket_folder() as folder,
            context.socket(zmq.PUSH) as commands,
            zmq.asyncio.Context.shadow(context).socket(zmq.PULL) as events,
        ):
            launch = EngineLaunch(
                config=self._config,
                tokenizer_dir=self._tokenizer_dir,
                command_address=f"ipc://{folder}/commands",
                event_address=f"ipc://{folder}/events",
                more_clients=self._more_clients,
            )
            bind_sockets(commands, launch.command_address, events, launch.event_address)
            process = await start_engine_process(self._command, launch)
            grace = 0.0  # a process that hangs or is starting reads no Shutdown
            try:
                failure, hangs = await self._watch(process, commands, events)
                if self._was_ready and not hangs:
                    grace = STOP_TIMEOUT
                return failure
            except asyncio.CancelledError:
                grace = STOP_TIMEOUT if self._was_ready else 0.0
                raise
            finally:
                self._user.engine_ended()  # before the process exits, which may take a while
                with contextlib.suppress(zmq.ZMQError):
                    commands.send(msgspec.msgpack.encode(Shutdown()), zmq.NOBLOCK)
                await stop_engine_process(process, grace)

    async def _watch(
        self,
        process: asyncio.subprocess.Process,
        commands: zmq.Socket[bytes],
        events: zmq.asyncio.Socket,
    ) -> tuple[str, bool]:
        """Wait until the process exits, reports a fatal error, or hangs. Returns the reason, in
        one line, and whether it hangs."""
        watchdog = ProcessWatchdog(process.pid, self._timeout)
        reader = asyncio.create_task(self._read(events, commands, watchdog), name="engine-reader")
        ended = asyncio.create_task(process.wait(), name="engine-process")
        hung = asyncio.create_task(watchdog.wait_hung(), name="engine-watchdog")
        tasks: tuple[asyncio.Task[str], asyncio.Task[int], asyncio.Task[str]] = reader, ended, hung
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if ended.done() and not reader.done():
                await asyncio.wait((reader,), timeout=LAST_WORDS_TIMEOUT)
            if reader.done():
                return reader.result(), False
            if ended.done():
                return _exit_in_words(process.returncode), False
            return hung.result(), True
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(
        self,
        events: zmq.asyncio.Socket,
        commands: zmq.Socket[bytes],
        watchdog: ProcessWatchdog,
    ) -> str:
        """Dispatch events until the engine reports a fatal error."""
        decoder = msgspec.msgpack.Decoder(EngineEvent)
        while True:
            event: EngineEvent = decoder.decode(await events.recv())
            watchdog.heard()
            match event:
                case StepOutputs():
                    self._user.engine_step(event)
                    # Let consumers run: a recv that need not wait never yields.
                    await asyncio.sleep(0)
                case AdaptersChanged():
                    self._user.engine_adapters(event)
                case LoadProgress():
                    if self._on_progress is not None:
                        self._on_progress(event)
                case EngineReady():
                    self._was_ready = True
                    watchdog.ready(event.device)
                    await _connected(commands)
                    self._user.engine_ready(event, commands)
                case EngineFailed():
                    return event.message
                case EngineIdle():
                    pass


async def follow_engine(
    user: EngineUser, client: int, command_address: str, event_address: str
) -> None:
    """Dispatch the events of an engine that another process supervises, until cancelled. The
    requests of an earlier process of the index `client` are aborted."""
    with (
        zmq.Context() as context,
        context.socket(zmq.PUSH) as commands,
        zmq.asyncio.Context.shadow(context).socket(zmq.PULL) as events,
    ):
        bind_sockets(commands, command_address, events, event_address)
        await _connected(commands)
        commands.send(msgspec.msgpack.encode(Attach(client)), zmq.NOBLOCK)
        decoder = msgspec.msgpack.Decoder(EngineEvent)
        while True:
            try:
                event: EngineEvent = decoder.decode(await events.recv())
                match event:
                    case StepOutputs():
                        user.engine_step(event)
                        await asyncio.sleep(0)
                    case AdaptersChanged():
                        user.engine_adapters(event)
                    case EngineReady():
                        await _connected(commands)
                        user.engine_ready(event, commands)
                    case _:  # for the supervising process
                        pass
            except Exception as error:
                # The event's request is unknown. The engine itself runs on.
                logger.error("An event of the engine is lost: %s.", _in_one_line(error))
                user.events_lost()
                await asyncio.sleep(FIRST_RESTART_DELAY)


async def _connected(commands: zmq.Socket[bytes]) -> None:
    """Wait until the engine is connected. It connects each socket by itself, and tries an address
    that was not yet bound again after 100 ms, so its events may arrive long before a command could
    be sent."""
    while not commands.poll(0, zmq.POLLOUT):
        await asyncio.sleep(CONNECT_TICK)


def bind_sockets(
    commands: zmq.Socket[bytes],
    command_address: str,
    events: zmq.asyncio.Socket,
    event_address: str,
) -> None:
    commands.set(zmq.SNDHWM, 0)  # admission limits the queue, not the socket
    commands.set(zmq.LINGER, 100)  # milliseconds to send Shutdown
    commands.bind(command_address)
    events.set(zmq.RCVHWM, 0)
    events.set(zmq.LINGER, 0)
    events.bind(event_address)


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _exit_in_words(returncode: int | None) -> str:
    if returncode is not None and returncode < 0:
        return f"The engine process was ended by signal {-returncode}."
    return f"The engine process ended with exit code {returncode}."
