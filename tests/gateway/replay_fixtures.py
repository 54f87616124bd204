"""Small real tokenizers, one of each family, and an engine that replays token ids: the only fake
that the answer half of the gateway is tested with.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from formgate.constrain.compiler import GrammarCompiler
from formgate.engine.messages import (
    AddRequest,
    EngineReady,
    PositionLogprobs,
    TokenLogprob,
    TokenOutput,
)
from formgate.gateway.answers.answer_plan import AnswerPlanner
from formgate.gateway.answers.chat_service import ChatService
from formgate.gateway.metrics import Metrics
from formgate.gateway.model.model_profile import ModelProfile, load_model_profile
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.model.tokenizer_folder import load_tokenizer
from formgate.gateway.processes.compile_worker import CompileTasks
from formgate.gateway.server_config import ServerConfig

SPECIAL = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_CALLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "<think>",
    "</think>",
]

CORPUS = [
    "What is the weather in Paris? It is sunny, and 22 degrees.",
    "John Smith, 30, software engineer. 张三，30岁，软件工程师。",
    '{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}}',
    "The quick brown fox jumps over the lazy dog. Hello, world! 你好，世界。",
] * 20

TEMPLATE = """
{{- bos_token }}
{%- for m in messages if m.role == 'system' %}[SYSTEM_PROMPT]{{ m.content }}[/SYSTEM_PROMPT]
{%- endfor %}
{%- if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}
{%- for m in messages %}
  {%- if m.role == 'user' %}[INST]{{ m.content }}[/INST]
  {%- elif m.role == 'assistant' %}
    {%- if m.content %}{{ m.content }}{% endif %}
    {%- if m.tool_calls %}[TOOL_CALLS] [
      {%- for c in m.tool_calls %}
        {%- set f = c.function %}{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}
        {%- if not loop.last %}, {% endif %}
      {%- endfor %}]
    {%- endif %}</s>
  {%- elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.content }}[/TOOL_RESULTS]
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt and enable_thinking %}{{ '<think>\\n' }}{% endif %}
"""


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer with the embedded model's special tokens, and a chat template."""
    folder = tmp_path_factory.mktemp("byte_level")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    backend.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "model_max_length": 2048}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "top_k": 7}))
    (folder / "config.json").write_text(
        json.dumps({"vocab_size": 512, "architectures": ["LlamaForCausalLM"]})
    )
    return folder


@pytest.fixture(scope="session")
def tokenizer(model_dir: Path) -> Tokenizer:
    return load_tokenizer(model_dir)


@pytest.fixture(scope="session")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A Llama 2 and Mistral style tokenizer: U+2581 for spaces, bytes as <0xHH>."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=[*SPECIAL, *byte_pieces], show_progress=False
    )
    backend.train_from_iterator([line for line in CORPUS if line.isascii()], trainer)
    # Bytes are ordinary tokens: only the trainer wanted them special to give them ids.
    layout = json.loads(backend.to_str())
    layout["added_tokens"] = [
        token for token in layout["added_tokens"] if token["content"] in SPECIAL
    ]
    (folder / "tokenizer.json").write_text(json.dumps(layout))
    config = {"bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(folder)


@pytest.fixture(params=["byte_level", "sentencepiece"])
def any_tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    name = "tokenizer" if request.param == "byte_level" else "sentencepiece"
    return request.getfixturevalue(name)


class ReplayEngine:
    """Answers the i-th request with the i-th script, `burst` tokens in each output.

    `closed` tells which requests were closed before their end, as an abort would.
    """

    def __init__(self, scripts: Sequence[Sequence[int]], *, burst: int, eos_id: int) -> None:
        self.ready: EngineReady | None = EngineReady(2048, 100, 16, 512, "cpu", "float32")
        self.requests: list[AddRequest] = []
        self.closed: list[str] = []
        self.begun: list[str] = []  # and neither gone on with nor abandoned
        self.admission: Exception | None = None
        self.failure: Exception | None = None
        self.cached: Sequence[int] = (3,)  # tokens of each request's prompt
        self._scripts = scripts
        self._burst = burst
        self._eos_id = eos_id

    def ensure_admission(self, count: int = 1) -> None:
        if self.admission is not None:
            raise self.admission

    async def begin(self, requests: Sequence[AddRequest]) -> None:
        self.ensure_admission(len(requests))
        self.begun += [request.request_id for request in requests]

    def abandon(self, requests: Sequence[AddRequest]) -> None:
        for request in requests:
            if request.request_id in self.begun:
                self.begun.remove(request.request_id)
                self.closed.append(request.request_id)

    async def generate(self, request: AddRequest) -> AsyncGenerator[TokenOutput]:
        if request.request_id in self.begun:
            self.begun.remove(request.request_id)
        script = list(self._scripts[len(self.requests) % len(self._scripts)])
        cached = self.cached[len(self.requests) % len(self.cached)]
        self.requests.append(request)
        limit = request.params.max_tokens
        stopped = len(script) < limit
        tokens = [*script, self._eos_id] if stopped else script[:limit]
        stop_ids = request.params.stop_token_ids
        found = [i for i, token in enumerate(tokens) if token in stop_ids]
        if found:
            tokens, stopped = tokens[: found[0] + 1], True
        ended = False
        try:
            for start in range(0, len(tokens), self._burst):
                part = tokens[start : start + self._burst]
                last = start + self._burst >= len(tokens)
                if self.failure is not None and start > 0:
                    raise self.failure
                output = TokenOutput(
                    request.request_id,
                    part,
                    logprobs=self._logprobs(request, part),
                    num_cached_tokens=cached if start == 0 else 0,
                )
                if start == 0 and request.params.prompt_logprobs is not None:
                    output.prompt_logprobs = [
                        None,
                        *(self._position(t, 1) for t in request.prompt_token_ids[1:]),
                    ]
                if last:
                    ended = True
                    output.finish_reason = "stop" if stopped else "length"
                    output.stop_token_id = tokens[-1] if stopped else None
                await asyncio.sleep(0)  # as from a socket: other tasks run in between
                yield output
        finally:
            if not ended:
                self.closed.append(request.request_id)

    def _logprobs(self, request: AddRequest, tokens: list[int]) -> list[PositionLogprobs] | None:
        if request.params.logprobs is None:
            return None
        return [self._position(token, request.params.logprobs) for token in tokens]

    def _position(self, token: int, num_top: int) -> PositionLogprobs:
        best = [TokenLogprob(100 + k, -0.5 * (k + 1), k + 1) for k in range(num_top)]
        return PositionLogprobs(TokenLogprob(token, float("-inf"), 400), best)


@pytest.fixture
def replay(tokenizer: Tokenizer) -> Callable[..., ReplayEngine]:
    """An engine that writes the given texts, special tokens among them."""

    def make(*texts: str, burst: int = 1) -> ReplayEngine:
        scripts: list[Any] = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
        return ReplayEngine(scripts, burst=burst, eos_id=tokenizer.eos_ids[0])

    return make


@pytest.fixture(scope="session")
def profile(model_dir: Path, tokenizer: Tokenizer) -> ModelProfile:
    return load_model_profile(
        model_dir, ServerConfig(), name="tiny", max_logprobs=20, tokenizer=tokenizer
    )


@pytest.fixture(scope="session")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer.vocabulary(), padded_vocab_size=512)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("tiny")


class LocalCompiling:
    """The compile pool's tasks in a thread of this process."""

    def __init__(self, compiler: GrammarCompiler) -> None:
        self._tasks = CompileTasks(compiler)
        self._known: dict[tuple[str, str], str] = {}

    def known(self, task: str, spec_text: str) -> str | None:
        return self._known.get((task, spec_text))

    async def compiled(self, task: str, spec_text: str) -> str:
        compiled = await asyncio.to_thread(getattr(self._tasks, task), spec_text)
        return self._known.setdefault((task, spec_text), compiled)

    async def check(self, task: str, text: str) -> str:
        checked: str = await asyncio.to_thread(getattr(self._tasks, task), text)
        return checked


@pytest.fixture
def local_check(compiler: GrammarCompiler) -> Callable[[str, str], Awaitable[str]]:
    """A worker's checks of answers, in this process."""
    return LocalCompiling(compiler).check


@pytest.fixture
def local_compiling(compiler: GrammarCompiler) -> LocalCompiling:
    return LocalCompiling(compiler)


@pytest.fixture
def planner(
    profile: ModelProfile, local_compiling: LocalCompiling, metrics: Metrics
) -> AnswerPlanner:
    return AnswerPlanner(profile, local_compiling, metrics)


@pytest.fixture
def serve(profile: ModelProfile, planner: AnswerPlanner) -> Callable[..., ChatService]:
    """Chat completions over an engine, as tests of other APIs have theirs."""
    return lambda engine: ChatService(profile, engine, planner)
