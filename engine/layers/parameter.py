"""A parameter that carries its own weight loader, so that the checkpoint reader is one loop and
each layer alone knows which slice of a checkpoint's tensor it keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

# (checkpoint tensor, which shard of a merged parameter it is; None: all of it)
WeightLoader = Callable[[torch.Tensor, str | None], None]


class WeightShapeError(ValueError):
    """A checkpoint tensor does not have the shape that the config asks for."""

    def __init__(self, found: Sequence[int], expected: Sequence[int]) -> None:
        super().__init__(f"has shape {list(found)}, the config asks for {list(expected)}")


class WeightParameter(nn.Parameter):
    """`shards`: the parts that separate checkpoint tensors fill; empty, one tensor fills it all."""

    weight_loader: WeightLoader
    shards: tuple[str, ...]

    def __new__(cls, data: torch.Tensor, shards: tuple[str, ...] = ()) -> WeightParameter:
        parameter: WeightParameter = super().__new__(cls, data, requires_grad=False)
        parameter.shards = shards
        parameter.weight_loader = parameter.load_whole
        return parameter

    def load_whole(self, loaded: torch.Tensor, shard: str | None) -> None:
        assert shard is None
        copy_weight(self.data, loaded)


def copy_weight(target: torch.Tensor, loaded: torch.Tensor) -> None:
    """Converts dtype and device on the way."""
    if target.shape != loaded.shape:
        raise WeightShapeError(loaded.shape, target.shape)
    target.copy_(loaded)
