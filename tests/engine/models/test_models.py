"""Every model against transformers: the same tiny random checkpoint, float32, over a paged cache
whose blocks lie in random order and held garbage before.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
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
    Cohere2Config,
    DeepseekV2Config,
    DeepseekV3Config,
    Gemma2Config,
    Gemma3TextConfig,
    Glm4MoeConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from formgate.engine.attention.metadata import AttentionMetadata
from formgate.engine.layers.parallel import TensorParallel
from formgate.engine.loading.weights import dummy_weights, load_model_config, load_weights
from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.forward_batch import ForwardBatch
from formgate.engine.models.registry import build_model

BLOCK_SIZE = 4
VOCAB = 131  # odd on purpose: two ranks must pad it
CPU = torch.device("cpu")
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 20,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}

CASES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "llama_tied": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama_no_gqa": lambda: LlamaConfig(**{**SHAPE, "num_key_value_heads": 4}),
    "llama_one_kv_head": lambda: LlamaConfig(**{**SHAPE, "num_key_value_heads": 1}),
    "llama_head_dim_biases": lambda: LlamaConfig(
        **SHAPE, head_dim=24, attention_bias=True, mlp_bias=True
    ),
    "llama_llama3_rope": lambda: LlamaConfig(**SHAPE, rope_parameters=LLAMA3_ROPE),
    "llama_linear_rope": lambda: LlamaConfig(**SHAPE, rope_parameters=LINEAR_ROPE),
    "llama_yarn_rope": lambda: LlamaConfig(**SHAPE, rope_parameters=YARN_ROPE),
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=None),
    "mistral_window": lambda: MistralConfig(**SHAPE, sliding_window=6, head_dim=32),
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen2_window_above_layer_1": lambda: Qwen2Config(
        **SHAPE, use_sliding_window=True, sliding_window=5, max_window_layers=1
    ),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=32),
    "phi3": lambda: Phi3Config(**SHAPE),
    "phi3_partial_rotary": lambda: Phi3Config(**SHAPE, partial_rotary_factor=0.5),
    "gemma2": lambda: Gemma2Config(
        **SHAPE,
        head_dim=32,
        sliding_window=6,
        query_pre_attn_scalar=20,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **SHAPE,
        head_dim=32,
        sliding_window=6,
        query_pre_attn_scalar=20,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 50000.0, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
        },
    ),
    "smollm3": lambda: SmolLM3Config(**SHAPE, no_rope_layers=[1, 0, 1]),
    "smollm3_window": lambda: SmolLM3Config(
        **SHAPE, no_rope_layers=[1, 0, 1], use_sliding_window=True, sliding_window=6
    ),
    "granite": lambda: GraniteConfig(
        **SHAPE,
        embedding_multiplier=3.0,
        attention_multiplier=0.2,
        residual_multiplier=0.4,
        logits_scaling=2.5,
    ),
    "olmo2": lambda: Olmo2Config(**SHAPE),
    "olmo2_one_kv_head": lambda: Olmo2Config(**{**SHAPE, "num_key_value_heads": 1}),
    "cohere2": lambda: Cohere2Config(
        **SHAPE,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "deepseek_v2_dense": lambda: DeepseekV2Config(
        **{**SHAPE, **LATENT}, q_lora_rank=None, first_k_dense_replace=3
    ),
    "deepseek_v3_dense": lambda: DeepseekV3Config(
        **{**SHAPE, **LATENT},
        q_lora_rank=40,
        first_k_dense_replace=3,
        rope_parameters={**YARN_ROPE, "mscale": 1.0, "mscale_all_dim": 1.0},
    ),
    "mixtral": lambda: MixtralConfig(**SHAPE, num_local_experts=5, sliding_window=None),
    "mixtral_window": lambda: MixtralConfig(**SHAPE, num_local_experts=4, sliding_window=6),
    "qwen2_moe": lambda: Qwen2MoeConfig(
        **SHAPE,
        num_experts=6,
        num_experts_per_tok=3,
        moe_intermediate_size=40,
        shared_expert_intermediate_size=56,
        decoder_sparse_step=2,
    ),
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **SHAPE,
        head_dim=32,
        num_experts=8,
        num_experts_per_tok=3,
        moe_intermediate_size=40,
        norm_topk_prob=True,
        mlp_only_layers=[1],
    ),
    "deepseek_v2": lambda: DeepseekV2Config(
        **{**SHAPE, **LATENT},
        q_lora_rank=None,
        first_k_dense_replace=1,
        n_routed_experts=8,
        n_shared_experts=2,
        num_experts_per_tok=3,
        moe_intermediate_size=40,
    ),
    "deepseek_v2_groups": lambda: DeepseekV2Config(
        **{**SHAPE, **LATENT},
        q_lora_rank=40,
        first_k_dense_replace=1,
        n_routed_experts=12,
        n_shared_experts=1,
        num_experts_per_tok=3,
        moe_intermediate_size=40,
        topk_method="group_limited_greedy",
        n_group=4,
        topk_group=2,
        routed_scaling_factor=4.0,
    ),
    "deepseek_v3": lambda: DeepseekV3Config(
        **{**SHAPE, **LATENT},
        q_lora_rank=40,
        first_k_dense_replace=1,
        n_routed_experts=16,
        num_experts_per_tok=4,
        moe_intermediate_size=40,
        n_group=4,
        topk_group=2,
    ),
    "glm4_moe": lambda: Glm4MoeConfig(
        **SHAPE,
        head_dim=32,
        use_qk_norm=True,
        attention_bias=True,
        n_routed_experts=8,
        num_experts_per_tok=3,
        moe_intermediate_size=40,
        routed_scaling_factor=2.5,
    ),
    "gpt_oss": lambda: GptOssConfig(
        **SHAPE,
        head_dim=32,
        num_local_experts=5,
        num_experts_per_tok=3,
        sliding_window=6,
        swiglu_limit=1.5,  # so that it cuts
        rope_parameters={**YARN_ROPE, "rope_theta": 150000.0, "truncate": False},
    ),
}

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
