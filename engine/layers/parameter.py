"""Parameters with their own weight loaders. The checkpoint reader is one loop, and only the layer
knows which slice of a checkpoint tensor it keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn


class WeightShapeError(ValueError):
    """A checkpoint tensor does not have the shape that the config implies."""

    def __init__(self, found: Sequence[int], expected: Sequence[int]) -> None:
        super().__init__(f"has shape {list(found)}, the config asks for {list(expected)}")


class WeightSplitError(ValueError):
    """An element of a checkpoint tensor covers features of more than one rank."""

    def __init__(self, features: int) -> None:
        super().__init__(
            f"holds {features} features in each element, which the ranks' shares cut: choose "
            "another --tensor-parallel-size"
        )


@dataclass(frozen=True, slots=True)
class FileTensor:
    """A slice of a tensor in an open safetensors file. `narrow` reads nothing and `read` reads only
    the slice, so a rank never reads the other ranks' bytes.
    """

    file: Any  # safetensors.safe_open
    name: str
    ranges: tuple[tuple[int, int], ...]  # start and length along each dimension
    whole: bool = True

    @classmethod
    def of(cls, file: Any, name: str) -> FileTensor:
        return cls(file, name, tuple((0, size) for size in file.get_slice(name).get_shape()))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(length for _, length in self.ranges)

    def narrow(self, dim: int, start: int, length: int) -> FileTensor:
        old_start, old_length = self.ranges[dim]
        assert 0 <= start <= start + length <= old_length
        if length == old_length:
            return self
        ranges = list(self.ranges)
        ranges[dim] = (old_start + start, length)
        return replace(self, ranges=tuple(ranges), whole=False)

    def read(self) -> torch.Tensor:
        if self.whole:
            tensor: torch.Tensor = self.file.get_tensor(self.name)
        else:
            slices = tuple(slice(start, start + length) for start, length in self.ranges)
            tensor = self.file.get_slice(self.name)[slices]
        return tensor


Loaded = torch.Tensor | FileTensor
# (checkpoint tensor, name of the shard of a merged parameter; None: the whole parameter)
WeightLoader = Callable[[Loaded, str | None], None]
# Fills a parameter for `--load-format dummy`.
Dummy = Callable[[torch.Tensor, torch.Generator], None]


def small_normal(target: torch.Tensor, generator: torch.Generator) -> None:
    target.normal_(0.0, 0.02, generator=generator)


def ones(target: torch.Tensor, generator: torch.Generator) -> None:
    target.fill_(1)


class WeightParameter(nn.Parameter):
    """`shards`: names of the parts that separate checkpoint tensors fill; empty: one tensor fills
    the whole parameter. `optional`: a checkpoint may lack it.
    """

    weight_loader: WeightLoader
    shards: tuple[str, ...]
    dummy: Dummy
    optional: bool

    def __new__(
        cls, data: torch.Tensor, shards: tuple[str, ...] = (), dummy: Dummy = small_normal
    ) -> WeightParameter:
        parameter: WeightParameter = super().__new__(cls, data, requires_grad=False)
        parameter.shards = shards
        parameter.dummy = dummy
        parameter.optional = False
        parameter.weight_loader = parameter.load_whole
        return parameter

    def load_whole(self, loaded: Loaded, shard: str | None) -> None:
        assert shard is None
        copy_weight(self.data, loaded)


def read(loaded: Loaded) -> torch.Tensor:
    return loaded if isinstance(loaded, torch.Tensor) else loaded.read()


def copy_weight(target: torch.Tensor, loaded: Loaded) -> None:
    """Copy and convert dtype and device. Raises WeightShapeError if the shapes differ."""
    if target.shape != tuple(loaded.shape):
        raise WeightShapeError(loaded.shape, target.shape)
    target.copy_(read(loaded))
