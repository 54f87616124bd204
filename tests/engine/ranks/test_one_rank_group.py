"""A group of one rank: every collective runs, on a GPU inside the graphs, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from formgate.engine import engine
from formgate.engine.execution.runner import ModelRunner
from formgate.engine.layers.parallel import TensorParallel
from formgate.engine.ranks.connection import listen
from formgate.engine.ranks.group import RankGroup, join_ranks, make_store

CASES = [
    pytest.param("cpu", {"max_cudagraph_capture_size": 8}, id="gloo"),
    pytest.param("cuda", {}, id="nccl, graphs", marks=pytest.mark.gpu),
    pytest.param("cuda", {"enforce_eager": True}, id="nccl, eager", marks=pytest.mark.gpu),
]


@pytest.mark.parametrize(("device", "fields"), CASES)
def test_a_group_of_one_answers_what_no_group_does(
    make_engine, requests_of, monkeypatch: pytest.MonkeyPatch, device: str, fields: dict[str, Any]
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    requests = requests_of(3, 24)
    plain = make_engine(device=device, **fields)
    store = make_store(listen("127.0.0.1", 0))
    parallel = join_ranks(store, 0, 1, torch.device(device))
    joined: list[torch.Tensor] = []
    reduce = TensorParallel.all_reduce

    def count(self: TensorParallel, partial: torch.Tensor) -> torch.Tensor:
        joined.append(partial)
        return reduce(self, partial)

    monkeypatch.setattr(TensorParallel, "all_reduce", count)

    def start_runner(config, *, progress, on_lost) -> ModelRunner:
        ranks = RankGroup(parallel, 1, store)
        return ModelRunner(config, progress=progress, group=ranks)

    monkeypatch.setattr(engine, "start_runner", start_runner)
    grouped = make_engine(device=device, **fields)
    for driver in (plain, grouped):
        for name, request in requests.items():
            driver.add(name, **request)
            driver.step()
        driver.run()
    assert joined
    for name in requests:
        assert grouped.answers[name].token_ids == plain.answers[name].token_ids
        assert grouped.answers[name].finish_reason == plain.answers[name].finish_reason
