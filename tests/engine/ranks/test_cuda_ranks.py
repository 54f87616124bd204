"""Two GPUs, each with a rank in a process of its own, over NCCL and in CUDA graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from formgate.engine.errors import EngineStartError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices"),
]
CUDA = {"device": "cuda", "kv_cache_memory_bytes": 1 << 22}
WAYS: dict[str, dict[str, Any]] = {
    "eager": {"enforce_eager": True, "async_scheduling": False},
    "graphs": {"async_scheduling": False},
    "overlap": {"enforce_eager": True},
    "both": {},
}


@pytest.mark.parametrize("fields", WAYS.values(), ids=WAYS.keys())
def test_two_gpus_answer_what_the_cpu_does(make_engine, requests_of, fields) -> None:
    requests = requests_of(9, 24)
    for request in requests.values():  # no chance: sums over ranks round otherwise
        for name in ("temperature", "seed"):
            request["params"].pop(name, None)
    alone = make_engine()
    driver = make_engine(**CUDA, **fields, tensor_parallel_size=2)
    for one in (alone, driver):
        for name, request in requests.items():
            one.add(name, **request)
            one.step()
        one.run()
    for name, answer in alone.answers.items():
        assert driver.answers[name].token_ids == answer.token_ids
        assert driver.answers[name].finish_reason == answer.finish_reason


def test_more_ranks_than_gpus_are_refused(make_engine) -> None:
    if torch.cuda.device_count() >= 4:
        pytest.skip("as many GPUs as the model has heads")
    with pytest.raises(EngineStartError, match="needs 4 GPUs on each node"):
        make_engine(**CUDA, tensor_parallel_size=4)
