"""Every architecture over two and four ranks, with heads that a rank has alone, that ranks share,
and sizes that they do not divide: the greedy tokens and logprobs of one rank.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
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

from formgate.engine.engine import Engine
from formgate.engine.messages import AddRequest, PositionLogprobs
from formgate.engine.models.registry import ARCHITECTURES
from formgate.engine.sampling_params import SamplingParams

Answer = tuple[list[int], list[float], list[float]]
VOCAB = 131  # odd on purpose, as is the feed-forward size: the last rank holds padding
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 90,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 20,
    "first_k_dense_replace": 2,
}
EXPERTS = {
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 40,
}
CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "llama, one KV head": lambda: LlamaConfig(**SHAPE | {"num_key_value_heads": 1}),
    "llama, as many KV heads": lambda: LlamaConfig(**SHAPE | {"num_key_value_heads": 4}),
    "llama, biases": lambda: LlamaConfig(
        **SHAPE, head_dim=24, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=6),
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=32),
    "phi3": lambda: Phi3Config(**SHAPE),
    "gemma2": lambda: Gemma2Config(**SHAPE, head_dim=16, sliding_window=6),
    "gemma3": lambda: Gemma3TextConfig(
        **SHAPE,
        head_dim=16,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 50000.0, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
        },
    ),
    "smollm3": lambda: SmolLM3Config(**SHAPE),
    "granite": lambda: GraniteConfig(**SHAPE),
    "olmo2": lambda: Olmo2Config(**SHAPE),
    "cohere2": lambda: Cohere2Config(**SHAPE, sliding_window=6),
    "deepseek_v2": lambda: DeepseekV2Config(**SHAPE | LATENT, q_lora_rank=None),
    "deepseek_v3": lambda: DeepseekV3Config(**SHAPE | LATENT, q_lora_rank=40),
    "mixtral": lambda: MixtralConfig(**SHAPE, num_local_experts=5),
    "qwen2_moe": lambda: Qwen2MoeConfig(
        **SHAPE,
        num_experts=6,
        num_experts_per_tok=3,
        moe_intermediate_size=40,
        shared_expert_intermediate_size=56,
    ),
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **SHAPE, head_dim=16, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=40
    ),
    "deepseek_v2, experts": lambda: DeepseekV2Config(
        **SHAPE | LATENT | EXPERTS, q_lora_rank=None, n_shared_experts=2
    ),
    "deepseek_v3, experts": lambda: DeepseekV3Config(
        **SHAPE | LATENT | EXPERTS, q_lora_rank=24, n_group=4, topk_group=2
    ),
    "glm4_moe": lambda: Glm4MoeConfig(**SHAPE | EXPERTS, head_dim=16, use_qk_norm=True),
    "gpt_oss": lambda: GptOssConfig(
        **SHAPE, head_dim=16, num_local_experts=5, num_experts_per_tok=3, sliding_window=6
    ),
}
PROMPTS = [[5, 9, 3], [17, *range(60, 90)], [100, 7, 8, 9, 11, 12]]


def save_random(config: PreTrainedConfig, folder: Path) -> None:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        # Wide apart logits; and transformers starts biases at 0, which would hide a forgotten one.
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(folder)


def answers(engine: Engine) -> list[Answer]:
    """Of each prompt: tokens, their logprobs, and the prompt's."""
    for number, prompt in enumerate(PROMPTS):
        params = SamplingParams(
            max_tokens=10, temperature=0.0, ignore_eos=True, logprobs=1, prompt_logprobs=0
        )
        engine.add_request(AddRequest(str(number), prompt, params))
    tokens: list[list[int]] = [[] for _ in PROMPTS]
    logprobs: list[list[float]] = [[] for _ in PROMPTS]
    of_prompts: list[list[float]] = [[] for _ in PROMPTS]
    while engine.has_work:
        for output in engine.step().outputs:
            number = int(output.request_id)
            assert output.error is None
            tokens[number] += output.token_ids
            logprobs[number] += chosen(output.logprobs or [])
            of_prompts[number] += chosen(output.prompt_logprobs or [])
    return list(zip(tokens, logprobs, of_prompts, strict=True))


def chosen(positions: list[PositionLogprobs | None]) -> list[float]:
    return [one.chosen.logprob for one in positions if one is not None]


def test_every_architecture_is_here(tmp_path: Path) -> None:
    named = {str((config().architectures or [""])[0]) for config in CONFIGS.values()} - {""}
    made = set()
    for name, config in CONFIGS.items():
        save_random(config(), tmp_path / name)
        made |= set(type(config()).from_pretrained(tmp_path / name).architectures)
    assert named | made == set(ARCHITECTURES) - {"Gemma3ForConditionalGeneration"}


@pytest.mark.parametrize("name", CONFIGS)
def test_ranks_answer_what_one_rank_does(name: str, tmp_path: Path, threads, engine_of) -> None:
    save_random(CONFIGS[name](), tmp_path)
    expected = answers(engine_of(tmp_path))
    for size in (2, 4):
        assert_same(answers(engine_of(tmp_path, tensor_parallel_size=size)), expected)


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3, experts", "gpt_oss"])
def test_ranks_with_whole_experts(name: str, tmp_path: Path, threads, engine_of) -> None:
    save_random(CONFIGS[name](), tmp_path)
    expected = answers(engine_of(tmp_path))
    for size in (2, 4):  # of five experts, one rank holds more than the others
        fields = {"tensor_parallel_size": size, "enable_expert_parallel": True}
        assert_same(answers(engine_of(tmp_path, **fields)), expected)


def assert_same(found: list[Answer], expected: list[Answer]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours[0] == theirs[0]
        for our, their in zip(ours[1:], theirs[1:], strict=True):
            assert our == pytest.approx(their, abs=1e-3)
