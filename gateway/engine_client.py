"""The HTTP process' end of the engine: starts the engine process, sends it requests, hands each
request its outputs, and starts the process again when it dies. It knows messages and sockets, and
nothing of prompts, text or HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import zmq
import zmq.asyncio

from formgate.engine.config import EngineConfig
from formgate.engine.messages import (
    AbortRequests,
    AddRequest,
    EngineCommand,
    EngineEvent,
    EngineFailed,
    EngineReady,
    LoadProgress,
    Release,
    Shutdown,
    StepOutputs,
    TokenOutput,
)
from formgate.gateway.engine_launch import (
    ENGINE_COMMAND,
    EngineLaunch,
    start_engine_process,
    stop_engine_process,
)
from formgate.gateway.errors import (
    ApiError,
    bad_request,
    engine_died,
    engine_not_ready,
    internal_error,
    queue_full,
    server_stopping,
)
from formgate.gateway.metrics import Metrics, RequestRecord
from formgate.gateway.outputs import Outputs

logger = logging.getLogger(__name__)

EngineState = Literal["starting", "ready", "dead"]
FIRST_RESTART_DELAY = 0.5  # seconds; doubles with each start that fails
MAX_RESTART_DELAY = 30.0
STOP_TIMEOUT = 5.0  # seconds that the engine process has to end by itself
LAST_WORDS_TIMEOUT = 0.2  # seconds for events that a dead process may have left in the socket
STEP_SECONDS = 0.02  # of an engine on the CPU


class EngineStartError(Exception):
    """The first engine process did not become ready. The message is one line for the operator."""


class EngineClient:
    """Requests in, outputs out. All methods belong to one event loop.

    `state` is "starting" until an engine process is ready (again), "dead" between the end of one
    process and the start of the next. If the first start fails, nothing is tried again and
    `wait_ready` raises.
    """

    def __init__(
        self,
        config: EngineConfig,
        metrics: Metrics,
        *,
        tokenizer_dir: Path | None = None,
        max_in_flight: int,
        on_progress: Callable[[LoadProgress], None] | None = None,
        command: Sequence[str] = ENGINE_COMMAND,
        more_clients: Sequence[tuple[str, str]] = (),
        on_death: Callable[[], None] | None = None,
        client: int = 0,
    ) -> None:
        """`max_in_flight`: requests that run or wait; more are refused.
        `more_clients`: the two addresses of each other process that this one's engine serves;
        `on_death` is for telling them. `client`: the number of one of these, see `attach`."""
        self.state: EngineState = "starting"
        self.ready: EngineReady | None = None
        self._config = config
        self._tokenizer_dir = tokenizer_dir or config.model_dir
        self._metrics = metrics
        self._command = tuple(command)
        self._max_in_flight = max_in_flight
        self._on_progress = on_progress
        self._more_clients = list(more_clients)
        self._on_death = on_death
        self._client = client
        self._queues: dict[str, Outputs] = {}
        self._begun: dict[str, RequestRecord] = {}  # held in the engine, until `generate`
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(EngineEvent)
        self._commands: zmq.Socket[bytes] | None = None  # of the process that is ready
        self._first_ready: asyncio.Future[EngineReady] | None = None
        self._supervisor: asyncio.Task[None] | None = None

    # Life.

    async def start(self) -> None:
        """Start the engine process and return at once; see `wait_ready`."""
        assert self._supervisor is None
        self._first_ready = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.create_task(self._supervise(), name="engine-supervisor")

    async def attach(self, command_address: str, event_address: str) -> None:
        """Instead of `start`: be served by the engine process of another client, which tells of
        its end by `engine_died`."""
        assert self._supervisor is None
        assert self._client > 0
        self._first_ready = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.create_task(
            self._follow(command_address, event_address), name="engine-follower"
        )

    def engine_died(self) -> None:
        self._commands = None
        self.state = "dead"
        self._fail_all(engine_died)

    async def wait_ready(self) -> EngineReady:
        """Until the first engine process is ready. Raises EngineStartError if it fails."""
        assert self._first_ready is not None
        return await asyncio.shield(self._first_ready)

    async def close(self) -> None:
        """End the engine process; requests in flight end with an error."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._fail_all(server_stopping)
        if self._first_ready is not None and not self._first_ready.done():
            self._first_ready.cancel()

    @property
    def num_in_flight(self) -> int:
        return len(self._queues)

    # Requests.

    def ensure_admission(self, count: int = 1) -> None:
        """Raise the ApiError (503 or 429) that `count` more requests would meet now."""
        if self.state != "ready":
            raise engine_not_ready()
        if len(self._queues) + count > self._max_in_flight:
            raise queue_full(retry_after=1)

    async def begin(self, requests: Sequence[AddRequest]) -> None:
        """Let the engine compute the prompts of requests whose constraint is not known yet.
        `generate` of the same ids goes on with them; whoever may not get so far has to `abandon`
        them. Those that were begun already are let be. Raises ApiError as `generate` does.

        Returns when an engine on the CPU has left a core to whoever compiles the constraint: a step
        that is under way on all of them would take ten times as long beside that.
        """
        new = [one for one in requests if one.request_id not in self._begun]
        self.ensure_admission(len(new))
        has_others = self.num_in_flight > 0
        for request in new:
            self._begun[request.request_id] = self._open(request)
            self._add(request, held=True)
        if new and has_others and self.ready is not None and self.ready.device == "cpu":
            await asyncio.sleep(STEP_SECONDS)

    def abandon(self, requests: Sequence[AddRequest]) -> None:
        """Drop those that were begun and that nobody went on with. Never blocks, never raises."""
        for request in requests:
            record = self._begun.pop(request.request_id, None)
            if record is not None:
                self.abort([request.request_id])
                self._forget(request.request_id, record, "abort")

    async def generate(self, request: AddRequest) -> AsyncGenerator[TokenOutput]:
        """The outputs of one request, one per step, until the one with a `finish_reason`.

        A consumer that stops early (closes the generator, or is cancelled) aborts the request in
        the engine at once. Raises ApiError: 503 when the engine is not ready or dies, 429 when the
        queue is full; when the engine gives the request up, 400 if the request led to that
        (`param` is then as `TokenOutput.fault` says) and else 500.
        """
        request_id = request.request_id
        record = self._begun.pop(request_id, None)
        was_begun = record is not None
        if record is None:
            self.ensure_admission()
            record = self._open(request)
        queue = self._queues[request_id]
        finish_reason: str | None = None
        try:
            if was_begun:
                self._send(Release(request_id, request.constraint or ""))
            else:
                self._add(request, held=False)
            while True:
                output = await queue.next()
                if isinstance(output, ApiError):
                    raise output
                record.output(output)
                if output.finish_reason is not None:
                    finish_reason = output.finish_reason
                    self._forget(request_id, record, finish_reason)
                    if finish_reason == "error":
                        raise _given_up(output)
                    yield output
                    return
                yield output
        except ApiError:
            finish_reason = "error"
            raise
        finally:
            # A stop string closes the generator; a client that left cancels the task around it.
            if finish_reason is None:
                task = asyncio.current_task()
                cancelled = task is not None and task.cancelling() > 0
                finish_reason = "abort" if cancelled else "stop"
                self.abort([request_id])
            self._forget(request_id, record, finish_reason)

    def abort(self, request_ids: Sequence[str]) -> None:
        """Make the engine drop these; unknown ones are ignored. Never blocks, never raises."""
        known = [request_id for request_id in request_ids if request_id in self._queues]
        if known and self.state == "ready":
            with contextlib.suppress(ApiError):
                self._send(AbortRequests(known))

    def _open(self, request: AddRequest) -> RequestRecord:
        assert request.request_id not in self._queues, "request ids are unique"
        self._queues[request.request_id] = Outputs()
        return self._metrics.request(len(request.prompt_token_ids))

    def _add(self, request: AddRequest, *, held: bool) -> None:
        self._send(msgspec.structs.replace(request, client=self._client, held=held))

    def _forget(self, request_id: str, record: RequestRecord, reason: str) -> None:
        if self._queues.pop(request_id, None) is not None:
            record.finish(reason)

    def _send(self, command: EngineCommand) -> None:
        if self._commands is None:
            raise engine_died()
        try:
            self._commands.send(self._encoder.encode(command), zmq.NOBLOCK)
        except zmq.Again:  # no peer: the process has just died
            raise engine_died() from None

    # Supervision.

    async def _supervise(self) -> None:
        delay = FIRST_RESTART_DELAY
        while True:
            try:
                failure, was_ready = await self._run_engine()
            except OSError as error:  # no memory for a process, no room for its sockets
                failure, was_ready = f"The engine process cannot be started: {error}.", False
                self.state = "dead"
            assert self._first_ready is not None
            if not self._first_ready.done():
                self._first_ready.set_exception(EngineStartError(failure))
                return
            self._fail_all(engine_died)
            if self._on_death is not None:
                self._on_death()
            delay = FIRST_RESTART_DELAY if was_ready else min(2 * delay, MAX_RESTART_DELAY)
            logger.error("%s It is started again in %.1f s.", failure, delay)
            self._metrics.engine_died()
            await asyncio.sleep(delay)

    async def _run_engine(self) -> tuple[str, bool]:
        """One engine process from start to end. Returns why it ended, in one line, and whether it
        was ever ready.
        """
        self.state = "starting"
        with (
            tempfile.TemporaryDirectory(prefix="formgate-") as folder,
            zmq.Context() as context,
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
            _bind(commands, launch.command_address, events, launch.event_address)
            process = await start_engine_process(self._command, launch)
            reader = asyncio.create_task(self._read(events, commands), name="engine-reader")
            ended = asyncio.create_task(process.wait(), name="engine-process")
            try:
                await asyncio.wait((reader, ended), return_when=asyncio.FIRST_COMPLETED)
                if not reader.done():
                    await asyncio.wait((reader,), timeout=LAST_WORDS_TIMEOUT)
                failure = reader.result() if reader.done() else _exit_in_words(process.returncode)
                return failure, self._commands is not None
            finally:
                self._commands = None
                self.state = "dead"
                reader.cancel()
                with contextlib.suppress(zmq.ZMQError):
                    commands.send(self._encoder.encode(Shutdown()), zmq.NOBLOCK)
                await stop_engine_process(process, STOP_TIMEOUT)
                await asyncio.gather(reader, ended, return_exceptions=True)

    async def _follow(self, command_address: str, event_address: str) -> None:
        with (
            zmq.Context() as context,
            context.socket(zmq.PUSH) as commands,
            zmq.asyncio.Context.shadow(context).socket(zmq.PULL) as events,
        ):
            _bind(commands, command_address, events, event_address)
            while True:  # the engine's last words are for the process that starts it again
                await self._read(events, commands)

    async def _read(self, events: zmq.asyncio.Socket, commands: zmq.Socket[bytes]) -> str:
        """Hand out events until the engine says that it cannot go on."""
        while True:
            event: EngineEvent = self._decoder.decode(await events.recv())
            match event:
                case StepOutputs():
                    self._dispatch(event)
                    await asyncio.sleep(
                        0
                    )  # consumers first: a recv that need not wait never yields
                case LoadProgress():
                    if self._on_progress is not None:
                        self._on_progress(event)
                case EngineReady():
                    self._commands = commands
                    self.ready = event
                    self.state = "ready"
                    self._metrics.engine_ready(
                        event, prefix_caching=self._config.enable_prefix_caching
                    )
                    assert self._first_ready is not None
                    if not self._first_ready.done():
                        self._first_ready.set_result(event)
                    else:
                        logger.info("The engine is ready again.")
                case EngineFailed():
                    return event.message

    def _dispatch(self, step: StepOutputs) -> None:
        if self._client == 0:
            self._metrics.engine_step(step.stats)
        for output in step.outputs:
            # A request that was aborted a moment ago may still have outputs under way.
            queue = self._queues.get(output.request_id)
            if queue is not None:
                queue.put(output)

    def _fail_all(self, error: Callable[[], ApiError]) -> None:
        for queue in self._queues.values():
            queue.put(error())


def _given_up(output: TokenOutput) -> ApiError:
    message = output.error or "The engine gave this request up."
    if output.fault is None:
        return internal_error(message)
    code = "schema_too_complex" if output.fault == "constraint" else None
    return bad_request(message, output.fault, code)


def _bind(
    commands: zmq.Socket[bytes],
    command_address: str,
    events: zmq.asyncio.Socket,
    event_address: str,
) -> None:
    commands.set(zmq.SNDHWM, 0)  # admission limits the queue, not the socket
    commands.set(zmq.LINGER, 100)  # milliseconds: enough for Shutdown to leave
    commands.bind(command_address)
    events.set(zmq.RCVHWM, 0)
    events.set(zmq.LINGER, 0)
    events.bind(event_address)


def _exit_in_words(returncode: int | None) -> str:
    if returncode is not None and returncode < 0:
        return f"The engine process was ended by signal {-returncode}."
    return f"The engine process ended with exit code {returncode}."
