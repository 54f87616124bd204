"""The ranks' shares of experts, without their process group."""

from __future__ import annotations

import pytest
import torch

from formgate.engine.errors import EngineStartError
from formgate.engine.layers.experts import Experts, ExpertsSpec, MixtureOfExperts
from formgate.engine.layers.parallel import TensorParallel
from formgate.engine.layers.storage import Placement
from formgate.kernels.experts.choose_experts import Choice

META = torch.device("meta")


def spec_of(num_experts: int) -> ExpertsSpec:
    return ExpertsSpec(num_experts=num_experts, intermediate_size=32, choice=Choice(top_k=1))


def placed(rank: int, size: int) -> Placement:
    parallel = TensorParallel(rank, size)
    return Placement(torch.float32, META, parallel, expert_parallel=True)


@pytest.mark.parametrize(("num_experts", "size"), [(8, 1), (8, 3), (5, 4), (60, 16), (16, 16)])
def test_whole_experts_are_shared_out(num_experts: int, size: int) -> None:
    held = [
        list(Experts(16, spec_of(num_experts), placed(rank, size)).held) for rank in range(size)
    ]
    assert [expert for share in held for expert in share] == list(range(num_experts))
    assert all(held)
    assert max(map(len, held)) - min(map(len, held)) <= 1


def test_fewer_experts_than_ranks_are_refused() -> None:
    with pytest.raises(EngineStartError, match="4 ranks cannot share out 3 experts"):
        Experts(16, spec_of(3), placed(0, 4))


def test_another_activation_is_refused() -> None:
    with pytest.raises(EngineStartError, match="'gelu_pytorch_tanh'"):
        MixtureOfExperts(16, spec_of(4), "gelu_pytorch_tanh", placed(0, 1))
