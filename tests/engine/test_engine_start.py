"""What an engine does with its configuration when it starts."""

from __future__ import annotations

import pytest

from formgate.engine.errors import EngineStartError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_model_len": 1000}, "lower it to 128"),
        (
            {"max_model_len": 100, "kv_blocks": 20},
            "--max-model-len to 80",
        ),
        ({"kv_cache_memory_bytes": 100}, "--kv-cache-memory-bytes to 32768"),
        ({"max_num_batched_tokens": 8}, "--max-num-seqs to 8"),
        ({"tensor_parallel_size": 3}, "key-value heads: use one of 1, 2, 4$"),
        ({"tensor_parallel_size": 8}, "key-value heads: use one of 1, 2, 4$"),
        ({"tensor_parallel_size": 2, "nnodes": 2, "node_rank": 2}, "--node-rank 2"),
        ({"quantization": "awq"}, "--quantization awq"),
    ],
)
def test_a_config_that_cannot_run_says_what_to_change(make_engine, fields, message) -> None:
    with pytest.raises(EngineStartError, match=message) as caught:
        make_engine(**fields)
    assert "\n" not in str(caught.value)


def test_the_models_own_length_yields_to_the_memory(make_engine) -> None:
    driver = make_engine(kv_blocks=20)
    assert driver.engine.ready.max_model_len == 80
    assert driver.engine.ready.num_blocks == 20


def test_the_cache_is_no_larger_than_can_be_used(make_engine) -> None:
    assert make_engine(max_num_seqs=2).engine.ready.num_blocks == 2 * 32


def test_dummy_weights_answer(make_engine, prompts) -> None:
    answer = make_engine(load_format="dummy").generate(prompts[0])
    assert len(answer.token_ids) == 8
