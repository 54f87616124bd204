"""Adapters over several ranks: each holds its slices, which rank 0 alone has read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from formgate.engine.adapter import AdapterSource

SIZES = {
    "self_attn.q_proj": (32, 32),
    "self_attn.k_proj": (32, 16),
    "self_attn.v_proj": (32, 16),
    "self_attn.o_proj": (32, 32),
    "mlp.gate_proj": (32, 50),
    "mlp.up_proj": (32, 50),
    "mlp.down_proj": (50, 32),
}


@pytest.fixture(scope="module")
def uneven_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose feed-forward size four ranks do not divide, and with fewer KV heads than they
    are.
    """
    folder = tmp_path_factory.mktemp("uneven")
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=131,
        hidden_size=32,
        intermediate_size=50,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        eos_token_id=2,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("size", "fields"),
    [
        (2, {"async_scheduling": True}),
        (4, {"max_cudagraph_capture_size": 8}),
    ],
)
def test_ranks_answer_as_one_does(
    threads, make_engine, make_adapter, prompt_of, uneven_dir, size, fields
) -> None:
    ranks = {"a": 1, "b": 16, "c": 5}
    paths = {name: make_adapter(name, rank, sizes=SIZES) for name, rank in ranks.items()}
    options = {
        "model_dir": uneven_dir,
        "enable_lora": True,
        "max_loras": 2,
        "adapters": tuple(AdapterSource(name, path) for name, path in paths.items()),
    }
    one = make_engine(**options)
    many = make_engine(**options, **fields, tensor_parallel_size=size)
    names = [None, "a", "b", "c", "a", None, "c"]
    for driver in (one, many):
        for number, name in enumerate(names):
            request = {} if name is None else {"lora_name": name}
            driver.add(str(number), prompt_of(4 + 3 * number, number), **request)
            driver.step()
        driver.run()
    for number in range(len(names)):
        assert many.answers[str(number)].token_ids == one.answers[str(number)].token_ids
    assert len(threads) == size - 1
    assert all(runner.adapters.num_slots == 2 for runner in threads)
