"""A model whose layers all have a window: it answers what transformers does while the blocks behind
its windows serve other sequences.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

WINDOW, BLOCK_SIZE, NEW_TOKENS = 10, 4, 40


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MistralForCausalLM]:
    folder = tmp_path_factory.mktemp("windowed")
    torch.manual_seed(4)
    config = MistralConfig(
        vocab_size=131,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        sliding_window=WINDOW,
        eos_token_id=2,
        initializer_range=0.2,
    )
    model = MistralForCausalLM(config).eval()
    model.save_pretrained(folder)
    return folder, model


@torch.inference_mode()
def greedy(model: MistralForCausalLM, prompt: list[int]) -> list[int]:
    """The whole sequence anew for each token, so that no cache of transformers matters."""
    tokens = list(prompt)
    for _ in range(NEW_TOKENS):
        tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("prefix_caching", [False, True])
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("budget", [16, 256])  # prompts in chunks, and whole
def test_blocks_behind_the_windows_serve_others(
    windowed, make_engine, prompt_of, prefix_caching: bool, overlap: bool, budget: int
) -> None:
    folder, model = windowed
    prompts = {str(length): prompt_of(length) for length in (40, 33, 27, 9)}
    expected = {name: greedy(model, prompt) for name, prompt in prompts.items()}
    preemptions = {}
    for window in (WINDOW, 0):  # 0: all blocks are kept, as with a layer of full attention
        driver = make_engine(
            model_dir=folder,
            block_size=BLOCK_SIZE,
            max_model_len=96,
            max_num_batched_tokens=budget,
            enable_prefix_caching=prefix_caching,
            async_scheduling=overlap,
            # 42 blocks: at their ends the four sequences have 68.
            kv_cache_memory_bytes=42 * BLOCK_SIZE * 2 * 3 * 2 * 16 * 4,
        )
        tables = driver.engine.scheduler.tables
        assert tables.window == WINDOW
        tables.window = window
        for name, prompt in prompts.items():
            driver.add(name, prompt, params={"max_tokens": NEW_TOKENS})
        found = {name: answer.token_ids for name, answer in driver.run().items()}
        assert found == expected
        preemptions[window] = sum(one.num_preemptions for one in driver.stats)
        assert driver.engine.pool.num_used == 0
    assert preemptions[WINDOW] == 0 < preemptions[0]
