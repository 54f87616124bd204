"""The main loop of the engine process: commands from one socket, events to the others, steps in
between. It decides nothing about requests and does not know how the process was started.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec
import zmq

from formgate.engine.adapter import AdapterError
from formgate.engine.config import EngineConfig
from formgate.engine.engine import Engine
from formgate.engine.errors import EngineStartError
from formgate.engine.hooks import ConstraintFactory, FillMasks
from formgate.engine.loading.weights import WeightsError
from formgate.engine.messages import (
    AbortRequests,
    AddRequest,
    Attach,
    EngineCommand,
    EngineEvent,
    EngineFailed,
    EngineIdle,
    EngineReady,
    LoadAdapter,
    LoadProgress,
    Release,
    Shutdown,
    StepOutputs,
    TokenOutput,
    UnloadAdapter,
)
from formgate.engine.models.spec import UnsupportedModelError
from formgate.engine.ranks.leader import LAST_WORDS, RankLost

logger = logging.getLogger(__name__)

LINGER = 2000  # milliseconds that closing waits for the last events to be sent
PARENT_CHECK_INTERVAL = 1.0  # seconds
IDLE_INTERVAL = 1.0  # seconds between two EngineIdle events
IDLE_WAIT = 0.001  # seconds after a step that computed nothing
PROGRESS_INTERVAL = 0.05  # seconds


def run_engine_loop(
    config: EngineConfig,
    load_constraints: Callable[[], tuple[ConstraintFactory, FillMasks]],
    command_address: str,
    event_address: str,
    *,
    more_clients: Sequence[tuple[str, str]] = (),
) -> None:
    """Load the model and serve until a Shutdown arrives or the parent process is gone.

    Connects to both addresses and to those of `more_clients`, which are numbered from 1.
    `load_constraints` runs in a thread while the model loads, since most of that loading releases
    the GIL. An engine that cannot start or continue sends EngineFailed and raises SystemExit(1).
    """
    parent = os.getppid()
    with (
        zmq.Context() as context,
        context.socket(zmq.PULL) as commands,
        contextlib.ExitStack() as stack,
    ):
        commands.set(zmq.RCVHWM, 0)
        commands.connect(command_address)
        clients = []
        for address in (event_address, *(event for _, event in more_clients)):
            events = stack.enter_context(context.socket(zmq.PUSH))
            events.set(zmq.SNDHWM, 0)  # a slow reader must not stop the step
            events.set(zmq.LINGER, LINGER)
            events.connect(address)
            clients.append(events)
        for command_address, _ in more_clients:
            commands.connect(command_address)
        sender = EventSender(clients)
        thread = stack.enter_context(ThreadPoolExecutor(1, "load-constraints"))
        constraints = thread.submit(load_constraints)
        try:
            engine = Engine(
                config,
                lambda text: constraints.result()[0](text),
                fill_masks=lambda *masks: constraints.result()[1](*masks),
                progress=sender.progress,
                on_lost_rank=partial(_end_process, event_address),
            )
            constraints.result()
        except Exception as error:
            sender.send(EngineFailed(_start_failure(error)))
            raise SystemExit(1) from error
        # Everything loaded so far lives as long as the process: exempt it from garbage collection.
        gc.collect()
        gc.freeze()
        sender.send(engine.ready)
        try:
            EngineLoop(engine, commands, sender, parent).run()
        except Exception as error:
            sender.send(EngineFailed(_failure(engine, error)))
            engine.close(in_order=False)
            raise SystemExit(1) from error
        engine.close()


class EventSender:
    """Sends each client the outputs of its own requests, and all clients every other event."""

    def __init__(self, sockets: Sequence[zmq.Socket[bytes]]) -> None:
        self._sockets = sockets
        self._clients: dict[str, int] = {}  # by request id; the first client's are left out
        self._encoder = msgspec.msgpack.Encoder()
        self._stage = ""
        self._next_progress = 0.0

    def send(self, event: EngineEvent) -> None:
        message = self._encoder.encode(event)
        for socket in self._sockets:
            socket.send(message)

    def started(self, request: AddRequest) -> None:
        if request.client:
            self._clients[request.request_id] = request.client

    def aborted(self, request_ids: Sequence[str]) -> None:
        for request_id in request_ids:
            self._clients.pop(request_id, None)

    def attached(self, client: int, ready: EngineReady) -> list[str]:
        """Send `ready` to a client that is new. Returns the ids of its predecessor's requests."""
        self._sockets[client].send(self._encoder.encode(ready))
        return [request_id for request_id, owner in self._clients.items() if owner == client]

    def step(self, step: StepOutputs) -> None:
        if not self._clients:
            self._sockets[0].send(self._encoder.encode(step))
            return
        shares: list[list[TokenOutput]] = [[] for _ in self._sockets]
        for output in step.outputs:
            shares[self._clients.get(output.request_id, 0)].append(output)
            if output.finish_reason is not None:
                self._clients.pop(output.request_id, None)
        for number, (socket, share) in enumerate(zip(self._sockets, shares, strict=True)):
            if share or number == 0:  # the first client reports the engine's statistics
                socket.send(self._encoder.encode(StepOutputs(share, step.stats)))

    def idle(self) -> None:
        """Tell the first client, which supervises the engine, that it is alive."""
        self._sockets[0].send(self._encoder.encode(EngineIdle()))

    def progress(self, stage: str, done: int, total: int) -> None:
        """Send the first and last event of a stage, and at most 20 a second in between."""
        now = time.monotonic()
        if stage != self._stage or done >= total or now >= self._next_progress:
            self._stage, self._next_progress = stage, now + PROGRESS_INTERVAL
            self.send(LoadProgress(stage, done, total))


class EngineLoop:
    def __init__(
        self, engine: Engine, commands: zmq.Socket[bytes], sender: EventSender, parent: int
    ) -> None:
        self.engine = engine
        self._commands = commands
        self._sender = sender
        self._decoder = msgspec.msgpack.Decoder(EngineCommand)
        self._parent = parent
        self._next_parent_check = 0.0
        self._running = True

    def run(self) -> None:
        """Serve until a Shutdown arrives or the parent process is gone."""
        wait = 0.0
        while self._running and self._parent_is_alive():
            self._handle_commands(wait if self.engine.has_work else IDLE_INTERVAL)
            if (lost := self.engine.runner.lost_rank()) is not None:
                raise RankLost(lost)
            if self.engine.has_work:
                step = self.engine.step()
                self._sender.step(step)
                for change in self.engine.adapters.take_changes():
                    self._sender.send(change)
                # Waiting sequences may have no room until held ones get their constraints.
                wait = 0.0 if step.stats.num_batched_tokens or step.outputs else IDLE_WAIT
            else:
                self._sender.idle()

    def _handle_commands(self, wait: float) -> None:
        """Handle all commands that have arrived; wait up to `wait` seconds for the first."""
        if wait and not self._commands.poll(int(wait * 1000)):
            return
        while self._running:
            try:
                message = self._commands.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._handle(self._decoder.decode(message))

    def _handle(self, command: EngineCommand) -> None:
        match command:
            case AddRequest():
                self._sender.started(command)
                self.engine.add_request(command)
            case Release():
                self.engine.release(command.request_id, command.constraint)
            case AbortRequests():
                self._abort(command.request_ids)
            case Attach():
                self._abort(self._sender.attached(command.client, self.engine.ready))
            case LoadAdapter():
                self.engine.adapters.load(command)
            case UnloadAdapter():
                self.engine.adapters.unload(command)
            case Shutdown():
                self._running = False

    def _abort(self, request_ids: Sequence[str]) -> None:
        self.engine.abort(request_ids)
        self._sender.aborted(request_ids)

    def _parent_is_alive(self) -> bool:
        """False once the process has another parent, as orphans do. Checked once a second."""
        now = time.monotonic()
        if now < self._next_parent_check:
            return True
        self._next_parent_check = now + PARENT_CHECK_INTERVAL
        return os.getppid() == self._parent


def _failure(engine: Engine, error: Exception) -> str:
    """Why a running engine cannot continue. A step fails in many ways if another rank is gone."""
    if (lost := engine.runner.lost_rank(wait=LAST_WORDS)) is not None:
        return lost
    logger.error("the engine failed", exc_info=error)
    return f"The engine failed: {_in_one_line(error)}"


def _end_process(address: str, reason: str) -> None:
    """From any thread: report why the engine fails, and end the process."""
    # A context of its own: its end waits until the report is sent.
    with zmq.Context() as context, context.socket(zmq.PUSH) as events:
        events.set(zmq.LINGER, LINGER)
        events.connect(address)
        events.send(msgspec.msgpack.encode(EngineFailed(reason)))
    os._exit(1)


def _start_failure(error: Exception) -> str:
    if isinstance(error, (EngineStartError, WeightsError, UnsupportedModelError, AdapterError)):
        return str(error)
    logger.error("the engine cannot start", exc_info=error)
    return f"The engine cannot start: {_in_one_line(error)}"


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
