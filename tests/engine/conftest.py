"""A tiny random Llama on disk, and an engine over it that a test drives step by step."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from formgate.engine.config import EngineConfig
from formgate.engine.engine import Engine
from formgate.engine.hooks import ConstraintFactory, TokenConstraint
from formgate.engine.messages import AddRequest, EngineStats, TokenOutput
from formgate.engine.sampling_params import SamplingParams

VOCAB = 131
EOS = 2
BLOCK_SIZE = 4
BLOCK_BYTES = 2 * 2 * BLOCK_SIZE * 2 * 8 * 4  # two of layers * block_size * kv_heads * head_dim * 4


@pytest.fixture(scope="session")
def llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(11)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        eos_token_id=EOS,
        initializer_range=0.3,  # wide apart logits: near ties would make greedy tokens a lottery
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


class FixedAnswer:
    """Allows one sequence of tokens and then, if it is `open`, the EOS token."""

    closed = False

    def __init__(self, answer: Sequence[int], *, open_end: bool = False) -> None:
        self.answer = list(answer)
        self.open_end = open_end
        self.accepted: list[int] = []

    def fill_bitmask(self, row: NDArray[np.int32]) -> bool:
        row.fill(0)
        done = len(self.accepted)
        token = self.answer[done] if done < len(self.answer) else EOS
        row[token >> 5] = np.int32(np.uint32(1 << (token & 31)).view(np.int32))
        return True

    def accept(self, token_id: int) -> None:
        assert token_id == self.answer[len(self.accepted)], "a token that the mask did not allow"
        self.accepted.append(token_id)

    def forced_tokens(self) -> list[int]:
        return self.answer[len(self.accepted) :]

    def rollback(self, num_tokens: int) -> None:
        del self.accepted[len(self.accepted) - num_tokens :]

    def is_terminated(self) -> bool:
        return not self.open_end and len(self.accepted) == len(self.answer)


def read_answer(text: str) -> TokenConstraint:
    """The factory of these tests: "3 4 5" and, with an open end, "3 4 5 ..."."""
    words = text.split()
    open_end = words[-1:] == ["..."]
    return FixedAnswer([int(word) for word in words if word != "..."], open_end=open_end)


@dataclass
class Collected:
    """All that a request was answered, joined."""

    token_ids: list[int] = field(default_factory=list)
    outputs: list[TokenOutput] = field(default_factory=list)

    @property
    def last(self) -> TokenOutput:
        return self.outputs[-1]

    @property
    def finish_reason(self) -> str | None:
        return self.last.finish_reason


class Driver:
    """Steps an engine and keeps what it answers."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.answers: dict[str, Collected] = defaultdict(Collected)
        self.stats: list[EngineStats] = []

    def add(self, name: str, prompt: Sequence[int], *, params: dict | None = None, **fields):
        defaults = {"max_tokens": 8, "temperature": 0.0, "ignore_eos": True}
        given = SamplingParams(**(defaults | (params or {})))
        self.engine.add_request(AddRequest(name, list(prompt), given, **fields))

    def step(self) -> list[TokenOutput]:
        step = self.engine.step()
        for output in step.outputs:
            answer = self.answers[output.request_id]
            assert not answer.outputs or answer.finish_reason is None, "output after the end"
            answer.outputs.append(output)
            answer.token_ids += output.token_ids
        self.stats.append(step.stats)
        self.engine.check_integrity()
        return step.outputs

    def run(self) -> dict[str, Collected]:
        for _ in range(10_000):
            if not self.engine.has_work:
                return self.answers
            self.step()
        raise AssertionError("the engine never came to an end")

    def generate(self, prompt: Sequence[int], **fields) -> Collected:
        name = f"generated-{len(self.answers)}"
        self.add(name, prompt, **fields)
        return self.run()[name]


MakeEngine = Callable[..., Driver]


@pytest.fixture
def make_engine(llama_dir: Path) -> Iterator[MakeEngine]:
    engines: list[Engine] = []

    def make(
        *, factory: ConstraintFactory = read_answer, kv_blocks: int | None = None, **fields
    ) -> Driver:
        cache_bytes = 1 << 22 if kv_blocks is None else kv_blocks * BLOCK_BYTES
        options = {
            "model_dir": llama_dir,
            "dtype": "float32",
            "device": "cpu",
            "block_size": BLOCK_SIZE,
            "max_num_seqs": 16,
            "max_num_batched_tokens": 256,
            "kv_cache_memory_bytes": cache_bytes,
        }
        engine = Engine(
            EngineConfig(**(options | fields)), factory, progress=lambda stage, done, total: None
        )
        engines.append(engine)
        return Driver(engine)

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture(scope="session")
def reference(llama_dir: Path) -> Callable[[Sequence[int], int], list[int]]:
    """Greedy tokens by transformers."""
    model = LlamaForCausalLM.from_pretrained(llama_dir, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None

    def generate(prompt: Sequence[int], max_tokens: int) -> list[int]:
        ids = torch.tensor([list(prompt)])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens,
            do_sample=False,
            pad_token_id=0,
        )
        return out[0, len(prompt) :].tolist()

    return generate


def make_prompt(length: int, seed: int = 0) -> list[int]:
    rng = random.Random(1000 * length + seed)
    return [rng.randrange(3, VOCAB) for _ in range(length)]


@pytest.fixture(scope="session")
def prompt_of() -> Callable[..., list[int]]:
    """A prompt by its length and, of those of one length, by its seed."""
    return make_prompt


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    return [make_prompt(length) for length in (5, 1, 23, 40, 8)]


@pytest.fixture(scope="session")
def requests_of() -> Callable[[int, int], dict[str, dict]]:
    """So many random requests by their names, each as `Driver.add` takes it."""

    def requests(seed: int, count: int) -> dict[str, dict]:
        rng = random.Random(seed)
        head = make_prompt(12)
        return {str(number): make_request(rng, number, head) for number in range(count)}

    return requests


def make_request(rng: random.Random, number: int, shared: list[int]) -> dict:
    """`shared`: what many prompts begin with."""
    head = shared[: rng.randint(0, len(shared))] if rng.random() < 0.6 else []
    params: dict = {"max_tokens": rng.randint(1, 24)}
    request = {
        "prompt": head + make_prompt(rng.randint(1, 25), rng.randrange(3)),
        "params": params,
    }
    if rng.random() < 0.4:
        answer = [rng.randrange(3, VOCAB) for _ in range(rng.randint(1, 12))]
        request["constraint"] = " ".join(map(str, answer))
        if rng.random() < 0.5:
            request["constraint"] += " ..."
            params["ignore_eos"] = False
    if rng.random() < 0.3:
        params |= {"temperature": 1.0, "seed": number}
    if rng.random() < 0.3:
        params |= {"ignore_eos": False, "stop_token_ids": tuple(range(3, 40))}
    if rng.random() < 0.2:
        params |= {"frequency_penalty": 0.8, "bad_words": ((7, 8), (9,))}
    if rng.random() < 0.15:
        params["prompt_logprobs"] = 1
    if rng.random() < 0.2:
        params["logprobs"] = 2
    return request


# (inputs, outputs) of the tiny Llama's modules.
MODULE_SIZES: dict[str, tuple[int, int]] = {
    "self_attn.q_proj": (32, 32),
    "self_attn.k_proj": (32, 16),
    "self_attn.v_proj": (32, 16),
    "self_attn.o_proj": (32, 32),
    "mlp.gate_proj": (32, 48),
    "mlp.up_proj": (32, 48),
    "mlp.down_proj": (48, 32),
}


def random_matrices(
    rank: int, seed: int, sizes: Mapping[str, tuple[int, int]]
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(2):
        for module, (inputs, outputs) in sizes.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            for side, shape in {"A": (rank, inputs), "B": (outputs, rank)}.items():
                values = 0.3 * torch.randn(shape, generator=generator)
                tensors[f"{name}.lora_{side}.weight"] = values
    return tensors


@pytest.fixture
def make_adapter(tmp_path: Path) -> Callable[..., Path]:
    """Write an adapter of random matrices as PEFT does. `modules`: those that it has; `config` is
    added to its adapter_config.json.
    """

    def make(
        name: str,
        rank: int,
        *,
        seed: int = 0,
        modules: Sequence[str] = tuple(MODULE_SIZES),
        sizes: Mapping[str, tuple[int, int]] = MODULE_SIZES,
        **config: Any,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        chosen = {module: sizes[module] for module in modules}
        tensors = random_matrices(rank, seed or sum(map(ord, name)), chosen)
        save_file(tensors, folder / "adapter_model.safetensors")
        fields = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": rank,
            "lora_alpha": rank,
            "target_modules": [module.rpartition(".")[2] for module in modules],
            "bias": "none",
        }
        (folder / "adapter_config.json").write_text(json.dumps(fields | config))
        return folder

    return make
