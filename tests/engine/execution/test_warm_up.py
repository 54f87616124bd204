"""What compiles kernels at the start: every task runs, and together they cover serving's needs."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from formgate.engine.attention.heads import PagedAttention
from formgate.engine.execution.graphs import static_shapes
from formgate.engine.execution.warm_up import compile_kernels, sampler_tasks
from formgate.engine.loading.weights import load_model_config
from formgate.engine.models.registry import build_model, model_spec
from formgate.engine.sampling.sampler import Sampler

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("processors", "max_batch", "decode", "short"),
    [
        (0, 16, [1], [1]),
        (8, 16, [1, 2, 4, 8, 16], [1, 2, 4, 8]),  # 16, 8, 4, 2 and 1 splits
        (8, 64, [1, 2, 4, 8, 16], [1, 2, 4, 8, 40]),
    ],
)
def test_attention_runs_in_every_kind_of_batch(
    llama_dir: Path, monkeypatch, processors, max_batch, decode, short
) -> None:
    monkeypatch.setattr("formgate.kernels.paged_attention.num_processors", lambda _: processors)
    config = load_model_config(llama_dir)
    seen: list[tuple[int, int]] = []
    forward = PagedAttention.forward

    def watched(layer, query, kv_cache, metadata):
        seen.append((len(metadata.context_lens), metadata.max_query_len))
        assert metadata.max_context_len == 4096
        return forward(layer, query, kv_cache, metadata)

    monkeypatch.setattr(PagedAttention, "forward", watched)
    model = build_model(config, torch.float32, CPU)
    tasks = model.attention_tasks(model.kv_layout(16), static_shapes(max_batch), 4096)
    compile_kernels(tasks, lambda *_: None)
    expected = [*((rows, 1) for rows in decode), *((rows, 16) for rows in short)]
    assert sorted(seen) == sorted([*expected, (1, 128), (1, 2048)])


def test_sampling_is_warmed_up_without_a_trace(llama_dir: Path) -> None:
    spec = model_spec(load_model_config(llama_dir))
    sampler = Sampler(vocab_size=spec.vocab_size, eos_token_ids=[2], device=CPU)
    drawn = sampler._generator.get_state()
    compile_kernels(sampler_tasks(sampler, spec.vocab_size, CPU), lambda *_: None)
    assert torch.equal(sampler._generator.get_state(), drawn)


def test_what_a_task_raises_is_raised_and_progress_is_told() -> None:
    ran: list[int] = []
    told: list[tuple[str, int, int]] = []
    compile_kernels(
        [lambda: ran.append(1), lambda: ran.append(2)], lambda *stage: told.append(stage)
    )
    assert sorted(ran) == [1, 2]
    assert told == [("compiling kernels", done, 2) for done in range(3)]
    with pytest.raises(ZeroDivisionError):
        compile_kernels([lambda: ran.append(3), lambda: ran.append(1 // 0)], lambda *_: None)
    assert 3 in ran


def test_every_thread_launches_on_the_ranks_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new thread's current device is GPU 0, whichever GPU the rank has."""
    chosen = threading.local()

    def choose(device: torch.device) -> None:
        chosen.device = device

    monkeypatch.setattr(torch.cuda, "set_device", choose)
    found: list[torch.device] = []
    tasks = [lambda: found.append(chosen.device)] * 9
    compile_kernels(tasks, lambda *_: None, torch.device("cuda", 3))
    assert found == [torch.device("cuda", 3)] * 9
