"""Which tensors go through the memory that GPUs share."""

from __future__ import annotations

import pytest
import torch

from formgate.engine.layers.parallel import TensorParallel
from formgate.engine.ranks.peer_memory import TWO_SHOT_BYTES, PeerMemory


@pytest.mark.parametrize(
    ("shape", "dtype", "taken"),
    [
        ((1, 4096), torch.bfloat16, True),
        ((8, 1), torch.float32, True),
        ((3, 1), torch.float32, False),  # the ranks do not divide it
        ((1, 4096), torch.float16, False),
        ((TWO_SHOT_BYTES // 8192, 4096), torch.bfloat16, True),
        ((TWO_SHOT_BYTES // 8192 + 1, 4096), torch.bfloat16, False),
    ],
)
def test_what_peers_reduce(shape, dtype, taken) -> None:
    memory = PeerMemory(2, torch.empty(0, dtype=torch.uint8), ())
    assert memory.takes(torch.empty(shape, dtype=dtype, device="meta")) is taken


def test_the_others_are_the_group_s() -> None:
    """A tensor that the peers take never reaches the group; another one does."""
    reduced: list[str] = []

    class Peers:
        def takes(self, x: torch.Tensor) -> bool:
            return x.numel() == 1

        def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
            reduced.append("peers")
            return x * 2

    class Work:
        def wait(self) -> None: ...

    class Group:
        def allreduce(self, tensors: list[torch.Tensor]) -> Work:
            reduced.append("group")
            tensors[0].mul_(2)
            return Work()

    parallel = TensorParallel(0, 2, Group(), Peers())
    for size in (1, 3):
        x = torch.ones(size)
        assert torch.equal(parallel.all_reduce(x), torch.full((size,), 2.0))
    assert reduced == ["peers", "group"]
