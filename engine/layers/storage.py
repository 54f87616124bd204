"""How a linear layer's weight is stored and multiplied: dense here; quantized forms add a class.
A method describes its tensors; the layer allocates them and decides which slice each one keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch

from formgate.engine.layers.parallel import TensorParallel
from formgate.kernels.skinny_linear import linear


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a linear layer: which axis runs over its outputs, which over its inputs.

    One element along an axis may stand for several features (packed integers, group scales): that
    number is the axis' `*_divisor`. An axis of None is not split.
    """

    name: str
    shape: tuple[int, ...]  # of this rank's part
    dtype: torch.dtype
    output_dim: int | None
    input_dim: int | None
    output_divisor: int = 1
    input_divisor: int = 1


class LinearMethod(Protocol):
    def tensors(
        self, in_features: int, out_features: int, dtype: torch.dtype
    ) -> tuple[StoredTensor, ...]: ...

    def finish_loading(self, tensors: dict[str, torch.Tensor]) -> None:
        """Called once when every tensor is in place: the moment to repack, in the dict."""

    def apply(self, tensors: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """x [n, in_features] -> [n, out_features]; a `bias` among the tensors is added."""


@dataclass(frozen=True, slots=True)
class DenseMethod:
    """One matrix [out_features, in_features] in the model's dtype."""

    def tensors(
        self, in_features: int, out_features: int, dtype: torch.dtype
    ) -> tuple[StoredTensor, ...]:
        return (
            StoredTensor("weight", (out_features, in_features), dtype, output_dim=0, input_dim=1),
        )

    def finish_loading(self, tensors: dict[str, torch.Tensor]) -> None:
        pass

    def apply(self, tensors: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return linear(x, tensors["weight"], tensors.get("bias"))


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model's weights live and in which form; handed to every layer as it is built."""

    dtype: torch.dtype
    device: torch.device
    parallel: TensorParallel = field(default_factory=TensorParallel)
    linear_method: LinearMethod = field(default_factory=DenseMethod)
