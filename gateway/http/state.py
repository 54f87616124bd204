"""The state that the routes of one server share. `assembly` builds it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from starlette.requests import Request

from formgate.gateway.http.adapters import AdapterAccess
from formgate.gateway.http.answer_service import AnswerService
from formgate.gateway.http.shutdown import ShutdownRequest
from formgate.gateway.metrics import Metrics
from formgate.gateway.model.text_bound import TextBound
from formgate.gateway.model.text_threads import TextThreads
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.processes.compile_pool import CompilePool
from formgate.gateway.processes.engine_client import EngineClient
from formgate.gateway.protocol.anthropic import CountTokensRequest, MessagesRequest
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.completion import CompletionRequest
from formgate.gateway.protocol.responses import ResponsesRequest
from formgate.gateway.protocol.tokenize import TokenizeRequest
from formgate.gateway.served_models import ServedModels
from formgate.gateway.server_config import ServerConfig


class Messages(AnswerService[MessagesRequest], Protocol):
    async def count_tokens(
        self, request: CountTokensRequest, *, max_model_len: int | None = None
    ) -> int: ...


@dataclass(frozen=True)
class GatewayState:
    config: ServerConfig
    models: ServedModels
    metrics: Metrics
    engine: EngineClient
    adapters: AdapterAccess
    tokenizer: Tokenizer
    chat: AnswerService[ChatCompletionRequest]
    completions: AnswerService[CompletionRequest]
    responses: AnswerService[ResponsesRequest]
    messages: Messages
    tokenize: Callable[[TokenizeRequest, TextBound], list[int]]
    threads: TextThreads
    compiling: CompilePool
    exposition: Callable[[], Awaitable[bytes]]  # /metrics of all HTTP processes
    shutdown: ShutdownRequest = field(default_factory=ShutdownRequest)


async def state_of(request: Request) -> GatewayState:
    state = request.app.state.gateway
    assert isinstance(state, GatewayState)
    return state
