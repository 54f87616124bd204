"""How a linear layer's weight is stored, loaded, sharded and multiplied: dense here; quantized
forms add a class. The layer says which part of the whole matrix is its own; the method makes the
parameters of that part, and multiplies by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch

from formgate.engine.layers.parallel import Slice, TensorParallel
from formgate.engine.layers.parameter import (
    Dummy,
    Loaded,
    WeightParameter,
    WeightShapeError,
    copy_weight,
    small_normal,
)
from formgate.kernels.skinny_linear import linear


@dataclass(frozen=True, slots=True)
class LinearPart:
    """One rank's part of a linear layer: some of its inputs and, stacked in order, some of each of
    its outputs.
    """

    inputs: Slice
    outputs: Mapping[str, Slice]
    dtype: torch.dtype
    device: torch.device

    @property
    def out_features(self) -> int:
        return sum(part.length for part in self.outputs.values())


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a linear layer: which axis runs over its outputs, which over its inputs.

    One element along an axis may stand for several features (packed integers, group scales): that
    number is the axis' `*_divisor`. An axis of None is not split. With `per_output` the tensor
    holds one number for each stacked output, such as the scale of a whole matrix: the shards of a
    checkpoint are scalars, and each has a place of its own.
    """

    name: str
    shape: tuple[int, ...]  # of this rank's part
    dtype: torch.dtype
    output_dim: int | None
    input_dim: int | None
    output_divisor: int = 1
    input_divisor: int = 1
    per_output: bool = False
    dummy: Dummy = small_normal

    def parameter(self, part: LinearPart) -> WeightParameter:
        """Allocated and not yet filled; its loader takes a checkpoint's whole tensor, or that of
        one output, and keeps the part's slice.
        """
        data = torch.empty(self.shape, dtype=self.dtype, device=part.device)
        shards = tuple(part.outputs) if len(part.outputs) > 1 else ()
        parameter = WeightParameter(data, shards, self.dummy)
        load = _load_scalars if self.per_output else _load_slices
        parameter.weight_loader = partial(load, parameter.data, self, part)
        return parameter


def _load_scalars(
    target: torch.Tensor, stored: StoredTensor, part: LinearPart, loaded: Loaded, shard: str | None
) -> None:
    """A scalar that comes for all outputs together is that of each."""
    scalar = loaded if loaded.shape == () or loaded.shape == (1,) else None
    if scalar is None:
        if shard is not None:
            raise WeightShapeError(loaded.shape, ())
        copy_weight(target, loaded)
        return
    index = slice(None) if shard is None else list(part.outputs).index(shard)
    place = target[index]
    value = torch.empty(tuple(loaded.shape), dtype=target.dtype, device=target.device)
    copy_weight(value, loaded)
    place.copy_(value.expand(place.shape) if place.ndim else value.reshape(()))


def _load_slices(
    target: torch.Tensor, stored: StoredTensor, part: LinearPart, loaded: Loaded, shard: str | None
) -> None:
    names = tuple(part.outputs) if shard is None else (shard,)
    rows, columns = stored.output_dim, stored.input_dim
    expected = list(target.shape)
    if rows is not None:
        full_rows = sum(part.outputs[name].full for name in names)
        expected[rows] = full_rows // stored.output_divisor
    if columns is not None:
        expected[columns] = part.inputs.full // stored.input_divisor
    if list(loaded.shape) != expected:
        raise WeightShapeError(loaded.shape, expected)

    if columns is not None:
        divisor = stored.input_divisor
        loaded = loaded.narrow(columns, part.inputs.start // divisor, part.inputs.length // divisor)
    if rows is None:
        copy_weight(target, loaded)
        return
    divisor = stored.output_divisor
    source_offset = 0  # where this output begins in `loaded`, which may hold several
    target_offset = 0
    for name, output in part.outputs.items():
        length = output.length // divisor
        if name in names:
            place = target.narrow(rows, target_offset, length)
            held = output.held // divisor
            source = loaded.narrow(rows, source_offset + output.start // divisor, held)
            copy_weight(place.narrow(rows, 0, held), source)
            place.narrow(rows, held, length - held).zero_()  # padding
            source_offset += output.full // divisor
        target_offset += length


class LinearMethod(Protocol):
    def parameters(self, part: LinearPart) -> dict[str, WeightParameter]:
        """The parameters of a part, by the names of a checkpoint's tensors."""

    def finish_loading(self, tensors: dict[str, torch.Tensor]) -> None:
        """Called once when every tensor is in place: the moment to repack, in the dict."""

    def apply(self, tensors: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """x [n, in_features] -> [n, out_features]; a `bias` among the tensors is added."""


@dataclass(frozen=True, slots=True)
class DenseMethod:
    """One matrix [out_features, in_features] in the model's dtype."""

    def parameters(self, part: LinearPart) -> dict[str, WeightParameter]:
        shape = (part.out_features, part.inputs.length)
        stored = StoredTensor("weight", shape, part.dtype, output_dim=0, input_dim=1)
        return {"weight": stored.parameter(part)}

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
