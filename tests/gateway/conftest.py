"""A gateway over a real engine client and child process, with services whose answers a test can
read off the request. The real services and the real engine are tested in `tests/serving`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import tokenizers
from fastapi import FastAPI
from tokenizers import decoders, models, pre_tokenizers

from formgate.engine.config import EngineConfig
from formgate.engine.messages import AddRequest
from formgate.engine.sampling_params import SamplingParams
from formgate.gateway.errors import bad_request
from formgate.gateway.http.adapters import AdapterAccess
from formgate.gateway.http.app import create_app
from formgate.gateway.http.sse import Chunk, Payload
from formgate.gateway.http.state import GatewayState
from formgate.gateway.metrics import Metrics
from formgate.gateway.model.text_threads import TextThreads
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.model.tokenizer_folder import load_tokenizer
from formgate.gateway.processes import compile_workers
from formgate.gateway.processes.compile_pool import CompilePool
from formgate.gateway.processes.compile_worker import worker_command
from formgate.gateway.processes.engine_client import EngineClient
from formgate.gateway.served_models import ServedModels
from formgate.gateway.server_config import ServerConfig
from formgate.gateway.serving.assembly import max_in_flight
from tests.gateway.replay_fixtures import (  # noqa: F401
    any_tokenizer,
    compiler,
    local_check,
    local_compiling,
    metrics,
    model_dir,
    planner,
    profile,
    replay,
    sentencepiece,
    serve,
    tokenizer,
)

SCRIPTED_SERVER = Path(__file__).with_name("scripted_server.py")
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
SCRIPTED_ENGINE = (sys.executable, str(Path(__file__).with_name("scripted_engine.py")))

SCRIPTED_WORKER = (sys.executable, str(Path(__file__).with_name("scripted_worker.py")))


class CountingService:
    """Streams the numbers that the scripted engine counts, one chunk for each of its steps."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine
        self._served = 0
        self.begun = 0  # answers whose first chunk has been sent

    async def stream(self, request: Any) -> AsyncGenerator[Chunk]:
        max_tokens = getattr(request, "max_tokens", None)
        if max_tokens == 13:
            raise bad_request("13 is refused.", "max_tokens", "superstition")
        if max_tokens == 500:
            raise RuntimeError("a bug of ours")
        self._served += 1
        add = AddRequest(
            f"r{self._served}",
            [getattr(request, "seed", None) or 1],
            SamplingParams(max_tokens=max_tokens or 3),
        )
        async with aclosing(self._engine.generate(add)) as outputs:
            first = True
            async for output in outputs:
                yield {"tokens": output.token_ids}
                self.begun += first
                first = False

    async def complete(self, request: Any) -> Payload:
        async with aclosing(self.stream(request)) as chunks:
            parts = [chunk async for chunk in chunks]
        return {"tokens": [token for part in parts for token in part["tokens"]]}

    async def count_tokens(self, request: Any, *, max_model_len: int | None = None) -> int:
        return len(request.messages)


@pytest.fixture(scope="session")
def byte_tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder as far as a compiler needs it. Every byte is a token."""
    folder = tmp_path_factory.mktemp("tokenizer")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture(scope="session")
def byte_tokenizer(byte_tokenizer_dir: Path) -> Tokenizer:
    return load_tokenizer(byte_tokenizer_dir)


@pytest.fixture(scope="session")
def compile_pool(byte_tokenizer_dir: Path) -> Iterator[CompilePool]:
    pool = CompilePool(
        worker_command(byte_tokenizer_dir, byte_tokenizer_dir, "llguidance"),
        workers=1,
        observe=lambda seconds: None,
    )
    yield pool
    pool.close()


@pytest.fixture
def busy() -> list[float]:
    """For how long the worker was busy with each thing that it was asked."""
    return []


@pytest.fixture
def no_forks(tmp_path: Path) -> Path:
    """A file: as long as it exists, no worker can be started."""
    return tmp_path / "no_forks"


@pytest.fixture
def obedient_of(
    no_forks: Path, busy: list[float], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[int], CompilePool]]:
    monkeypatch.setattr(compile_workers, "WALL_SECONDS", 3.0)
    with ExitStack() as stack:

        def make(workers: int) -> CompilePool:
            command = (*SCRIPTED_WORKER, str(no_forks))
            pool = CompilePool(command, workers=workers, observe=busy.append)
            stack.callback(pool.close)
            return pool

        yield make


@pytest.fixture
def obedient(obedient_of: Callable[[int], CompilePool]) -> CompilePool:
    return obedient_of(1)


@asynccontextmanager
async def _gateway(
    byte_level: Tokenizer, config: ServerConfig, compiling: CompilePool
) -> AsyncIterator[FastAPI]:
    models = ServedModels.of(config)
    counted = Metrics(models.default)
    engine_config = EngineConfig(model_dir=Path("any"), max_num_seqs=4)
    engine = EngineClient(
        engine_config,
        counted,
        max_in_flight=max_in_flight(config, engine_config, 0),
        command=SCRIPTED_ENGINE,
    )
    await engine.start()
    try:
        await engine.wait_ready()
        service = CountingService(engine)
        models = replace(models, adapters=engine.adapters.known)
        yield create_app(
            GatewayState(
                config=config,
                models=models,
                metrics=counted,
                engine=engine,
                adapters=AdapterAccess(config, models, engine.adapters),
                tokenizer=byte_level,
                chat=service,
                completions=service,
                responses=service,
                messages=service,
                tokenize=lambda request, bound: byte_level.encode(request.prompt or ""),
                threads=TextThreads(),
                compiling=compiling,
                exposition=counted.own_exposition,
            )
        )
    finally:
        await engine.close()


Test = Callable[[httpx.AsyncClient, FastAPI], Coroutine[Any, Any, None]]


@pytest.fixture
def with_gateway(byte_tokenizer: Tokenizer, compile_pool: CompilePool) -> Callable[..., None]:
    """Run a test coroutine with a client of a gateway made for it."""

    def run(test: Test, **options: Any) -> None:
        async def main() -> None:
            async with _gateway(byte_tokenizer, ServerConfig(**options), compile_pool) as app:
                transport = httpx.ASGITransport(app)
                async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                    await test(client, app)

        asyncio.run(asyncio.wait_for(main(), 120))

    return run


class RunningServer:
    """A server process, once it is ready or has ended; without `wait_ready`, at once."""

    def __init__(self, process: subprocess.Popen[str], *, wait_ready: bool = True) -> None:
        self.process = process
        self.lines: list[str] = []
        assert process.stdout is not None
        for line in process.stdout if wait_ready else ():
            self.lines.append(line)
            if found := re.match(r"formgate ready: (\S+) — model (\S+) — (\d+) tokens", line):
                self.url, self.model, self.max_model_len = found.groups()
                break
        # Nobody else empties the pipe, and a full one would stop the server.
        self._reader = threading.Thread(target=lambda: self.lines.extend(process.stdout or ()))
        self._reader.start()

    def wait(self, timeout: float = 120) -> int:
        code = self.process.wait(timeout)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def children(self) -> list[int]:
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(child) for child in task.read_text().split()]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer_dir: Path) -> Path:
    """A model without weights: every byte is a token."""
    folder = tmp_path_factory.mktemp("model")
    shutil.copy(byte_tokenizer_dir / "tokenizer.json", folder)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 300}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture
def start(model_folder: Path) -> Iterator[Callable[..., RunningServer]]:
    started: list[RunningServer] = []

    def start(
        *arguments: str,
        model: Path = model_folder,
        wait_ready: bool = True,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> RunningServer:
        """`prefix`: a command that runs the server's."""
        process = subprocess.Popen(
            [
                *(*prefix, sys.executable, str(SCRIPTED_SERVER), str(model)),
                *("--host", "127.0.0.1", "--port", "0", *arguments),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | (env or {}),
        )
        started.append(RunningServer(process, wait_ready=wait_ready))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            # A child that a failed test left stopped would hold the server's output open.
            for child in server.children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            server.process.kill()
            server.wait()
