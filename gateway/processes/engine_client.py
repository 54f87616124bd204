"""The HTTP process' client of the engine: sends requests, delivers outputs, and fails requests in
flight when the engine process exits. It knows messages and sockets, but nothing of prompts, text or
HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import zmq

from formgate.engine.config import EngineConfig
from formgate.engine.messages import (
    AbortRequests,
    AdaptersChanged,
    AddRequest,
    EngineCommand,
    EngineReady,
    LoadProgress,
    Release,
    StepOutputs,
    TokenOutput,
)
from formgate.gateway.errors import (
    ApiError,
    bad_request,
    engine_died,
    engine_not_ready,
    internal_error,
    queue_full,
    queue_timeout,
    server_stopping,
)
from formgate.gateway.metrics import Metrics, RequestRecord
from formgate.gateway.processes.adapter_desk import AdapterDesk
from formgate.gateway.processes.engine_launch import ENGINE_COMMAND
from formgate.gateway.processes.engine_supervisor import (
    ENGINE_TIMEOUT,
    EngineStartError,
    EngineSupervisor,
    follow_engine,
)
from formgate.gateway.processes.output_queue import OutputQueue

logger = logging.getLogger(__name__)

EngineState = Literal["starting", "ready", "dead"]
STEP_SECONDS = 0.02  # of an engine on the CPU


class EngineClient:
    """Sends requests to the engine and yields their outputs. All methods belong to one event loop.

    `state` is "starting" until the engine process is ready, and "dead" between the exit of one
    process and the start of the next. If the first start fails, `wait_ready` raises and nothing is
    retried.
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
        timeout: float = ENGINE_TIMEOUT,
        client: int = 0,
    ) -> None:
        """`max_in_flight`: limit on running and waiting requests. `timeout`: limit of a step in
        seconds. `more_clients`: (command, event) addresses of the other processes that this
        engine serves; `on_death` lets the caller notify them. `client`: the index of such a
        process, see `attach`."""
        self.state: EngineState = "starting"
        self.ready: EngineReady | None = None
        self._config = config
        self._metrics = metrics
        self._max_in_flight = max_in_flight
        self._on_death = on_death
        self._client = client
        self._queues: dict[str, OutputQueue] = {}
        self._begun: dict[
            str, RequestRecord
        ] = {}  # computed and held in the engine until `generate`
        self._encoder = msgspec.msgpack.Encoder()
        self._commands: zmq.Socket[bytes] | None = None  # of the process that is ready
        self.adapters = AdapterDesk(self._send)
        self._first_ready: asyncio.Future[EngineReady] | None = None
        self._supervisor = EngineSupervisor(
            self,
            config,
            tokenizer_dir or config.model_dir,
            command=command,
            more_clients=more_clients,
            timeout=timeout,
            on_progress=on_progress,
            on_restart=metrics.engine_restarting,
            adapters=self.adapters.sources,
        )
        self._events: asyncio.Task[None] | None = None
        self._stopping = False

    # Lifecycle.

    async def start(self) -> None:
        """Start the engine process and return at once; see `wait_ready`."""
        assert self._events is None
        self._first_ready = asyncio.get_running_loop().create_future()
        self._events = asyncio.create_task(self._supervise(), name="engine-supervisor")

    async def _supervise(self) -> None:
        assert self._first_ready is not None
        try:
            await self._supervisor.run()
        except EngineStartError as error:
            self._first_ready.set_exception(error)

    async def attach(self, command_address: str, event_address: str) -> None:
        """Instead of `start`: use the engine process of another client, whose exit is reported
        through `engine_ended`."""
        assert self._events is None
        assert self._client > 0
        self._first_ready = asyncio.get_running_loop().create_future()
        self._events = asyncio.create_task(
            follow_engine(self, self._client, command_address, event_address),
            name="engine-follower",
        )

    async def wait_ready(self) -> EngineReady:
        """Wait for the first engine process to be ready. Raises EngineStartError if it fails."""
        assert self._first_ready is not None
        return await asyncio.shield(self._first_ready)

    def end_requests(self) -> None:
        """Refuse new requests, and fail those in flight with the same error."""
        self._stopping = True
        self.abort(list(self._queues))
        self._fail_all(server_stopping)

    async def close(self) -> None:
        """End the requests in flight, then the engine process."""
        self.end_requests()
        if self._events is not None:
            self._events.cancel()
            await asyncio.gather(self._events, return_exceptions=True)
        if self._first_ready is not None and not self._first_ready.done():
            self._first_ready.cancel()

    @property
    def num_in_flight(self) -> int:
        return len(self._queues)

    # Requests.

    def ensure_admission(self, count: int = 1) -> None:
        """Raise ApiError 503 or 429 if `count` more requests would be refused now."""
        if self._stopping:
            raise server_stopping()
        if self.state != "ready":
            raise engine_not_ready()
        if len(self._queues) + count > self._max_in_flight:
            raise queue_full(retry_after=1)

    async def begin(self, requests: Sequence[AddRequest]) -> None:
        """Let the engine compute prompts while the requests' constraints are compiled. `generate`
        with the same ids continues them; without it, the caller must `abandon` them. Requests
        already begun are skipped. Raises ApiError as `generate` does.

        Returns once an engine on the CPU leaves a core to the compiler: a step on all cores would
        be ten times slower beside it.
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
        """Drop requests that were begun but not continued. Never blocks, never raises."""
        for request in requests:
            record = self._begun.pop(request.request_id, None)
            if record is not None:
                self.abort([request.request_id])
                self._forget(request.request_id, record, "abort")

    async def generate(self, request: AddRequest) -> AsyncGenerator[TokenOutput]:
        """The outputs of one request, one per step, until the one with a `finish_reason`.

        A consumer that stops early (closes the generator, or is cancelled) aborts the request in
        the engine at once. Raises ApiError: 503 if the engine is not ready or dies, 429 if the
        queue is full. If the engine fails the request: 400 if the request caused it (`param` is
        `TokenOutput.fault`), otherwise 500.
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
            # A stop string closes the generator; a disconnect cancels the task around it.
            if finish_reason is None:
                task = asyncio.current_task()
                cancelled = task is not None and task.cancelling() > 0
                finish_reason = "abort" if cancelled else "stop"
                self.abort([request_id])
            self._forget(request_id, record, finish_reason)

    def abort(self, request_ids: Sequence[str]) -> None:
        """Abort requests in the engine; unknown ids are ignored. Never blocks, never raises."""
        known = [request_id for request_id in request_ids if request_id in self._queues]
        if known and self.state == "ready":
            with contextlib.suppress(ApiError):
                self._send(AbortRequests(known))

    def _open(self, request: AddRequest) -> RequestRecord:
        assert request.request_id not in self._queues, "request ids are unique"
        self._queues[request.request_id] = OutputQueue()
        return self._metrics.request(len(request.prompt_token_ids), request.params.max_tokens)

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
        except zmq.ZMQError:  # no peer: the process has died
            raise engine_died() from None

    # Events from the supervisor.

    def engine_starting(self) -> None:
        self.state = "starting"

    def engine_ready(self, ready: EngineReady, commands: zmq.Socket[bytes]) -> None:
        self._metrics.engine_ready(
            ready,
            prefix_caching=self._config.enable_prefix_caching,
            max_loras=self._config.adapter_slots,
        )
        self._commands = commands
        self.adapters.engine_ready(ready.adapters)
        self.ready = ready
        was_ready, self.state = self.state == "ready", "ready"
        assert self._first_ready is not None
        if not self._first_ready.done():
            self._first_ready.set_result(ready)
        elif not was_ready:  # an engine may announce itself twice, see `Attach`
            logger.info("The engine is ready again.")

    def engine_step(self, step: StepOutputs) -> None:
        if self._client == 0:
            self._metrics.engine_step(step.stats)
        for output in step.outputs:
            # Outputs of a request aborted a moment ago may still arrive.
            queue = self._queues.get(output.request_id)
            if queue is not None:
                queue.put(output)

    def engine_adapters(self, change: AdaptersChanged) -> None:
        self.adapters.changed(change)

    def engine_ended(self) -> None:
        self._commands = None
        self.adapters.engine_ended()
        self.state = "dead"
        self._fail_all(engine_died)
        if self._on_death is not None:
            self._on_death()

    def events_lost(self) -> None:
        self.abort(list(self._queues))
        self._fail_all(internal_error)

    def _fail_all(self, error: Callable[[], ApiError]) -> None:
        for queue in self._queues.values():
            queue.put(error())


def _given_up(output: TokenOutput) -> ApiError:
    message = output.error or "The engine failed this request."
    if output.fault == "queue":
        return queue_timeout()
    if output.fault == "model":  # an adapter that was unloaded a moment ago
        return ApiError(404, message, "model", "model_not_found")
    if output.fault is None:
        return internal_error(message)
    code = "schema_too_complex" if output.fault == "constraint" else None
    return bad_request(message, output.fault, code)
