"""Every model against transformers: the same tiny random checkpoint, float32, over a paged cache
whose blocks lie in random order and held garbage before.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
)

from formgate.engine.attention.metadata import AttentionMetadata
from formgate.engine.layers.parallel import TensorParallel
from formgate.engine.loading.weights import dummy_weights, load_model_config, load_weights
from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.forward_batch import ForwardBatch
from formgate.engine.models.registry import build_model
from tests.engine.models.tiny_configs import CASES, LLAMA3_ROPE, SHAPE, VOCAB

BLOCK_SIZE = 4
CPU = torch.device("cpu")
PROMPTS = [
    torch.randint(0, VOCAB, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    for length in (23, 1, 9, 40)
]


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    logits: list[torch.Tensor]  # of each prompt, [len, vocab], from transformers


def save_random_checkpoint(config: PreTrainedConfig, folder: Path) -> Checkpoint:
    reference = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        # transformers starts biases at 0 and norms at 1, which would hide a forgotten one.
        for parameter in reference.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(parameter + 0.15 * noise)
        logits = [reference(torch.tensor([prompt])).logits[0] for prompt in PROMPTS]
    reference.save_pretrained(folder)
    return Checkpoint(folder, logits)


@pytest.fixture(scope="module", params=CASES)
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    config = CASES[request.param]()
    return save_random_checkpoint(config, tmp_path_factory.mktemp(request.param))


def load(folder: Path, parallel: TensorParallel | None = None) -> CausalLM:
    config = load_model_config(folder)
    model = build_model(config, torch.float32, CPU, parallel=parallel)
    load_weights(model, folder, progress=lambda stage, done, total: None)
    return model


class Paged:
    """Runs chunks of PROMPTS over caches that are shared by all of them."""

    def __init__(self, model: CausalLM) -> None:
        self.model = model
        shuffled = list(range(1, 1 + sum(len(prompt) // BLOCK_SIZE + 1 for prompt in PROMPTS)))
        random.Random(3).shuffle(shuffled)
        device = next(model.parameters()).device
        self.caches = model.kv_layout(BLOCK_SIZE).allocate(len(shuffled) + 1, device)
        for layer in self.caches:
            for cache, garbage in zip(layer, (1e3, -1e3), strict=False):
                cache.fill_(garbage)
        self.tables = [
            [shuffled.pop() for _ in range(len(prompt) // BLOCK_SIZE + 1)] for prompt in PROMPTS
        ]

    @torch.inference_mode()
    def run(self, chunks: Sequence[tuple[int, int, int]]) -> list[torch.Tensor]:
        """(prompt, start, end) of each row -> its logits [end - start, vocab]"""
        batch = self.batch(chunks)
        hidden = self.model(batch, self.caches)
        logits = self.model.compute_logits(hidden[batch.logits_indices])
        assert logits.dtype is torch.float32
        return list(logits.split([end - start for _, start, end in chunks]))

    def batch(self, chunks: Sequence[tuple[int, int, int]]) -> ForwardBatch:
        input_ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        query_start = [0]
        for prompt, start, end in chunks:
            input_ids += PROMPTS[prompt][start:end]
            positions += range(start, end)
            table = self.tables[prompt]
            slots += [
                table[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE
                for position in range(start, end)
            ]
            query_start.append(len(input_ids))
        longest = max(len(self.tables[prompt]) for prompt, _, _ in chunks)
        return ForwardBatch(
            input_ids=torch.tensor(input_ids),
            positions=torch.tensor(positions),
            logits_indices=torch.arange(len(input_ids)),
            attention=AttentionMetadata(
                slot_mapping=torch.tensor(slots),
                block_tables=torch.tensor(
                    [
                        self.tables[prompt] + [0] * (longest - len(self.tables[prompt]))
                        for prompt, _, _ in chunks
                    ],
                    dtype=torch.int32,
                ),
                query_start=torch.tensor(query_start, dtype=torch.int32),
                context_lens=torch.tensor([end for _, _, end in chunks], dtype=torch.int32),
                max_query_len=max(end - start for _, start, end in chunks),
                max_context_len=max(end for _, _, end in chunks),
            ),
        )


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_prefill_of_several_prompts_at_once(checkpoint: Checkpoint) -> None:
    paged = Paged(load(checkpoint.folder))
    found = paged.run([(index, 0, len(prompt)) for index, prompt in enumerate(PROMPTS)])
    for logits, expected in zip(found, checkpoint.logits, strict=True):
        assert_close(logits, expected)


def test_prefill_in_chunks(checkpoint: Checkpoint) -> None:
    paged = Paged(load(checkpoint.folder))
    bounds = [0, 3, 4, 11, 23]
    found = [paged.run([(0, *pair)])[0] for pair in pairwise(bounds)]
    assert_close(torch.cat(found), checkpoint.logits[0])


def test_decode_token_by_token(checkpoint: Checkpoint) -> None:
    paged = Paged(load(checkpoint.folder))
    found = paged.run([(0, 0, 5)])
    found += [paged.run([(0, position, position + 1)])[0] for position in range(5, 23)]
    assert_close(torch.cat(found), checkpoint.logits[0])


def test_ragged_batches_of_chunks_and_decodes(checkpoint: Checkpoint) -> None:
    """Each step takes a random number of tokens from a random set of prompts."""
    paged = Paged(load(checkpoint.folder))
    rng = random.Random(11)
    done = [0] * len(PROMPTS)
    found: list[list[torch.Tensor]] = [[] for _ in PROMPTS]
    while unfinished := [i for i, prompt in enumerate(PROMPTS) if done[i] < len(prompt)]:
        rows = rng.sample(unfinished, rng.randint(1, len(unfinished)))
        chunks = [
            (i, done[i], min(len(PROMPTS[i]), done[i] + rng.choice((1, 1, 2, 7)))) for i in rows
        ]
        for (i, _, end), logits in zip(chunks, paged.run(chunks), strict=True):
            found[i].append(logits)
            done[i] = end
    for logits, expected in zip(found, checkpoint.logits, strict=True):
        assert_close(torch.cat(logits), expected)


@torch.inference_mode()
def test_the_last_layer_goes_on_with_what_is_read(checkpoint: Checkpoint) -> None:
    """Of one prompt the end, of one nothing, of one a decoded token; then the rest of the
    second: its keys and values are all there.
    """
    paged = Paged(load(checkpoint.folder))
    paged.run([(2, 0, 8)])
    batch = paged.batch([(0, 0, 23), (3, 0, 3), (2, 8, 9)])
    read = replace(
        batch.attention,
        query_start=torch.tensor([0, 1, 1, 2], dtype=torch.int32),
        max_query_len=1,
        plans={},
    )
    batch = replace(batch, logits_indices=torch.tensor([22, 26]), read=read)
    logits = paged.model.compute_logits(paged.model(batch, paged.caches))
    assert_close(logits, torch.stack([checkpoint.logits[0][22], checkpoint.logits[2][8]]))
    assert_close(paged.run([(3, 3, 40)])[0], checkpoint.logits[3][3:])


def test_two_ranks_compute_what_one_does(checkpoint: Checkpoint) -> None:
    """The ranks are threads with a gloo group of their own; no process is started."""
    store = dist.HashStore()

    def rank_logits(rank: int) -> torch.Tensor:
        group = dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=30))
        model = load(checkpoint.folder, TensorParallel(rank, 2, group))
        return Paged(model).run([(0, 0, 23), (2, 0, 9)])[0]

    with ThreadPoolExecutor(2) as pool:
        for logits in pool.map(rank_logits, range(2)):
            assert_close(logits, checkpoint.logits[0])


@pytest.mark.parametrize("prefix", ["model.language_model.", "language_model.model."])
def test_the_text_part_of_a_model_with_vision(prefix: str, tmp_path: Path) -> None:
    text = CASES["gemma3"]()
    expected = save_random_checkpoint(text, tmp_path).logits[0]
    path = tmp_path / "model.safetensors"
    tensors = {name.replace("model.", prefix, 1): t for name, t in load_file(path).items()}
    tensors["vision_tower.embeddings.weight"] = torch.ones(3)
    save_file(tensors, path)
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": text.to_dict(),
        "vision_config": {},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_close(Paged(load(tmp_path)).run([(0, 0, 23)])[0], expected)


def test_bfloat16_runs_close_to_float32(tmp_path: Path) -> None:
    """The residual stream, the norms and the rotation survive a narrow dtype."""
    reference = save_random_checkpoint(CASES["llama_tied"](), tmp_path)
    config = load_model_config(tmp_path)
    model = build_model(config, torch.bfloat16, CPU)
    load_weights(model, tmp_path, progress=lambda stage, done, total: None)
    paged = Paged(model)
    paged.caches = [(key.bfloat16(), value.bfloat16()) for key, value in paged.caches]
    found = paged.run([(0, 0, 23)])[0]
    error = (found - reference.logits[0]).norm() / reference.logits[0].norm()
    assert 0 < error < 0.05


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu() -> None:
    config = LlamaConfig(**SHAPE, rope_parameters=LLAMA3_ROPE, architectures=["LlamaForCausalLM"])
    model = build_model(config, torch.float32, CPU)
    dummy_weights(model, seed=1)
    on_gpu = build_model(config, torch.float32, torch.device("cuda"))
    on_gpu.load_state_dict(model.state_dict())
    expected = Paged(model).run([(0, 0, 23), (2, 0, 9)])
    with torch.device("cuda"):
        paged = Paged(on_gpu)
        found = paged.run([(0, 0, 23), (2, 0, 9)])
        decoded = paged.run([(0, 22, 23), (2, 8, 9)])
    for logits, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(logits.cpu(), wanted, rtol=1e-3, atol=1e-3)
    for logits, wanted in zip(decoded, expected, strict=True):
        torch.testing.assert_close(logits.cpu()[0], wanted[-1], rtol=1e-3, atol=1e-3)
