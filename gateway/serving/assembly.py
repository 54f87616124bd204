"""Builds a server's parts, once, from the bottom up: each gets its dependencies when it is made."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from formgate.engine.config import EngineConfig
from formgate.gateway.answers.answer_plan import AnswerPlanner
from formgate.gateway.answers.chat_service import ChatService
from formgate.gateway.answers.completion_service import CompletionService
from formgate.gateway.apis.anthropic_service import MessagesService
from formgate.gateway.apis.responses_service import ResponsesService
from formgate.gateway.http.adapters import AdapterAccess
from formgate.gateway.http.shutdown import ShutdownRequest
from formgate.gateway.http.state import GatewayState
from formgate.gateway.metrics import Metrics
from formgate.gateway.model.model_profile import load_model_profile
from formgate.gateway.model.prompts import tokenize_prompt
from formgate.gateway.model.text_bound import TextBound
from formgate.gateway.model.text_threads import TextThreads
from formgate.gateway.processes.compile_pool import CompilePool
from formgate.gateway.processes.compile_worker import worker_command
from formgate.gateway.processes.engine_client import EngineClient
from formgate.gateway.protocol.tokenize import TokenizeRequest
from formgate.gateway.served_models import ServedModels
from formgate.gateway.server_config import ServerConfig, share_of

MIN_COMPILE_WORKERS = 4
MAX_COMPILE_WORKERS = 16


def build_state(
    config: ServerConfig,
    engine_config: EngineConfig,
    tokenizer_dir: Path,
    models: ServedModels,
    metrics: Metrics,
    engine: EngineClient,
    exposition: Callable[[], Awaitable[bytes]],
    *,
    number: int,
    shutdown: ShutdownRequest | None = None,
) -> GatewayState:
    """`number`: index of this HTTP process. Raises OSError or ValueError, with a one-line message,
    for unusable files."""
    model_dir = engine_config.model_dir
    profile = load_model_profile(
        model_dir,
        config,
        name=models.default,
        max_logprobs=engine_config.max_logprobs,
        tokenizer_dir=tokenizer_dir,
    )
    backend = engine_config.structured_outputs_backend
    compiling = CompilePool(
        worker_command(tokenizer_dir, model_dir, backend),
        workers=share_of(_compile_workers(), number, config.api_server_count),
        observe=metrics.grammar_compiled,
    )
    compiling.start()
    planner = AnswerPlanner(profile, compiling, metrics)

    def tokenize(request: TokenizeRequest, bound: TextBound) -> list[int]:
        return tokenize_prompt(
            request, profile.tokenizer, profile.chat_template, profile.chat_template_kwargs, bound
        )

    threads = TextThreads()
    models = replace(models, adapters=engine.adapters.known)
    chat = ChatService(profile, engine, planner, threads)
    return GatewayState(
        config=config,
        models=models,
        metrics=metrics,
        engine=engine,
        adapters=AdapterAccess(config, models, engine.adapters),
        tokenizer=profile.tokenizer,
        chat=chat,
        completions=CompletionService(profile, engine, planner, threads),
        responses=ResponsesService(chat, profile, threads),
        messages=MessagesService(chat, profile, threads),
        tokenize=tokenize,
        threads=threads,
        compiling=compiling,
        exposition=exposition,
        shutdown=shutdown or ShutdownRequest(),
    )


def max_in_flight(config: ServerConfig, engine_config: EngineConfig, number: int) -> int:
    """Maximum number of running and waiting requests of an HTTP process."""
    whole = engine_config.max_num_seqs + config.max_queue_size
    return share_of(whole, number, config.api_server_count)


def _compile_workers() -> int:
    """Number of compile workers of the whole server: fewer than the cores, so that a burst of new
    schemas leaves some to the engine; at least a few, so that a large schema does not delay small
    ones.
    """
    most = (os.cpu_count() or 1) * 3 // 4
    return max(MIN_COMPILE_WORKERS, min(MAX_COMPILE_WORKERS, most))
