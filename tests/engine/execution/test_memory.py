"""What the operator reads when something does not fit: one line, and a flag with a value."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from formgate.engine.attention.kv_layout import HeadsLayout
from formgate.engine.config import EngineConfig
from formgate.engine.errors import EngineStartError
from formgate.engine.execution.memory import (
    allocate_kv_cache,
    buffers_fit,
    fit_kv_cache,
    graphs_fit,
    largest_batch,
)

CPU = torch.device("cpu")
CONFIG = EngineConfig(model_dir=Path(), max_num_seqs=64)
SHAPE = HeadsLayout(num_layers=2, block_size=4, num_kv_heads=2, head_dim=8, dtype=torch.float32)


@pytest.mark.parametrize(
    ("fits", "flags"),
    [
        (buffers_fit(CONFIG), ["--max-num-seqs to 32"]),
        (
            graphs_fit(CONFIG, 64),
            ["--gpu-memory-utilization to 0.85", "--max-cudagraph-capture-size to 32"],
        ),
    ],
    ids=["buffers", "graphs"],
)
def test_each_part_of_the_start_names_its_flag(
    fits: AbstractContextManager[None], flags: list[str]
) -> None:
    with pytest.raises(EngineStartError) as caught, fits:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee ...")
    for flag in flags:
        assert flag in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cache_that_does_not_fit_names_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*args: object, **options: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "zeros", no_memory)
    with pytest.raises(EngineStartError, match=r"--gpu-memory-utilization to 0\.80"):
        allocate_kv_cache(CONFIG, SHAPE, 10, CPU)


def test_a_given_size_of_the_cache_needs_no_trial() -> None:
    def never() -> None:
        raise AssertionError

    config = EngineConfig(model_dir=Path(), max_num_seqs=64, kv_cache_memory_bytes=1 << 20)
    size = fit_kv_cache(
        config,
        SHAPE,
        CPU,
        max_model_len=100,
        max_num_tokens=256,
        num_graphs=40,
        run_largest_step=never,
    )
    assert size.num_blocks == (1 << 20) // SHAPE.bytes_per_block


@pytest.mark.parametrize(("num_seqs", "tokens", "longest"), [(3, 10, 100), (4, 64, 9), (1, 7, 7)])
def test_the_largest_step_is_as_large_as_a_step_may_be(
    num_seqs: int, tokens: int, longest: int
) -> None:
    batch = largest_batch(
        num_seqs=num_seqs, max_num_tokens=tokens, max_model_len=longest, block_size=4, device=CPU
    )
    assert len(batch.input_ids) == min(tokens, num_seqs * longest)
    assert len(batch.attention.context_lens) == num_seqs
    assert batch.attention.query_start[-1] == len(batch.input_ids)
    assert (batch.attention.slot_mapping == -1).all()
    assert batch.attention.max_context_len <= longest
