"""The engine client and the services on an event loop of their own, for callers in the same
process. It takes parsed requests and returns complete answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from formgate.engine.config import EngineConfig
from formgate.gateway.answers.caller import Caller, set_caller
from formgate.gateway.errors import ApiError
from formgate.gateway.http.adapters import AdapterAccess
from formgate.gateway.http.answer_service import AnswerService
from formgate.gateway.http.state import GatewayState
from formgate.gateway.library.loop_thread import LoopThread
from formgate.gateway.metrics import Metrics
from formgate.gateway.processes.compile_pool import CompilePool
from formgate.gateway.processes.engine_client import EngineClient
from formgate.gateway.processes.engine_supervisor import EngineStartError
from formgate.gateway.protocol.fields import GenerationRequest
from formgate.gateway.served_models import ServedModels
from formgate.gateway.server_config import ServerConfig
from formgate.gateway.serving.assembly import build_state, max_in_flight
from formgate.gateway.serving.console import StartupProgress

R = TypeVar("R", bound=GenerationRequest)


class LocalRuntime:
    """Thread-safe, but must not be called from its own loop's thread."""

    def __init__(
        self, config: ServerConfig, engine_config: EngineConfig, tokenizer_dir: Path
    ) -> None:
        self._config = config
        self._engine_config = engine_config
        self._tokenizer_dir = tokenizer_dir
        self._loop = LoopThread("formgate-llm")
        self._state: GatewayState | None = None
        self._engine: EngineClient | None = None
        self._compiling: CompilePool | None = None
        self._admission = asyncio.Semaphore(max_in_flight(config, engine_config, 0))

    def start(self) -> None:
        progress = StartupProgress()
        # Without a terminal, progress lines would clutter the program's log.
        with progress if sys.stderr.isatty() else contextlib.nullcontext():
            self._loop.run(self._start(progress))

    async def _start(self, progress: StartupProgress) -> None:
        models = ServedModels.of(self._config)
        metrics = Metrics(models.default)
        self._engine = EngineClient(
            self._engine_config,
            metrics,
            tokenizer_dir=self._tokenizer_dir,
            max_in_flight=max_in_flight(self._config, self._engine_config, 0),
            on_progress=progress.show,
            timeout=self._config.engine_timeout,
        )
        await self._engine.start()
        try:
            state = await asyncio.to_thread(
                build_state,
                self._config,
                self._engine_config,
                self._tokenizer_dir,
                models,
                metrics,
                self._engine,
                metrics.own_exposition,
                number=0,
            )
            self._compiling = state.compiling
            await self._engine.wait_ready()
        except OSError as error:
            raise ValueError(str(error)) from None
        except EngineStartError as error:
            raise RuntimeError(str(error)) from None
        self._state = state

    def answer(
        self, service: Callable[[GatewayState], AnswerService[R]], requests: Sequence[R]
    ) -> list[dict[str, Any]]:
        """The complete answers, in the order of `requests`. The first failure aborts the others and
        raises ValueError or RuntimeError."""
        if self._state is None:
            raise RuntimeError("This LLM is closed.")
        try:
            state = self._state
            return self._loop.run(self._answer_all(state.adapters, service(state), requests))
        except ApiError as error:
            kind = ValueError if error.status < 500 else RuntimeError
            raise kind(error.message) from None

    async def _answer_all(
        self, adapters: AdapterAccess, service: AnswerService[R], requests: Sequence[R]
    ) -> list[dict[str, Any]]:
        async def answer(request: R) -> dict[str, Any]:
            set_caller(Caller())  # of this task
            await adapters.choose(request.model)
            async with self._admission:
                payload = await service.complete(request)
            assert isinstance(payload, dict)
            return payload

        return await _all([answer(request) for request in requests])

    def room_after(self, prompt: str | list[int]) -> int:
        """Number of tokens that fit after a prompt; 0 if its request will be refused."""
        state = self._state
        if state is None or (ready := state.engine.ready) is None:
            return 0
        length = len(state.tokenizer.encode(prompt)) if isinstance(prompt, str) else len(prompt)
        return ready.max_model_len - length

    def close(self) -> None:
        self._state = None
        if self._compiling is not None:
            self._compiling.close()
            self._compiling = None
        if self._engine is not None:
            self._loop.run(self._engine.close())
            self._engine = None
        self._loop.close()


async def _all(coroutines: Sequence[Coroutine[Any, Any, dict[str, Any]]]) -> list[dict[str, Any]]:
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
