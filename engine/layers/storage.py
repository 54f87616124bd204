"""Storage of a linear layer's weight: its parameters, their loading and sharding, and the product.
The layer defines its part of the whole matrix; the `LinearMethod` makes the parameters of that
part. Dense storage is here; each quantized form adds a class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import torch

from formgate.engine.layers.parallel import Slice, TensorParallel
from formgate.engine.layers.parameter import (
    Dummy,
    Loaded,
    WeightParameter,
    WeightShapeError,
    WeightSplitError,
    copy_weight,
    small_normal,
)
from formgate.kernels.skinny_linear import linear


@dataclass(frozen=True, slots=True)
class LinearPart:
    """One rank's part of a linear layer: a slice of its inputs, and a slice of each of its outputs,
    stacked in order.
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
    """One tensor of a linear layer, and how its axes are split.

    `output_dim` and `input_dim` are the axes over outputs and inputs; None: not split. A divisor
    is the number of features per element of its axis (packed integers, group scales). With
    `per_output` the tensor holds one number per stacked output, such as the scale of a whole
    matrix; the checkpoint's shards are then scalars. An `optional` tensor that the checkpoint lacks
    keeps the values of `dummy`.
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
    optional: bool = False

    def parameter(self, part: LinearPart, data: torch.Tensor | None = None) -> WeightParameter:
        """Allocate the parameter, if no `data` is given. Its loader takes the whole checkpoint
        tensor, or that of one output, and keeps the part's slice.
        """
        if data is None:
            data = torch.empty(self.shape, dtype=self.dtype, device=part.device)
        shards = tuple(part.outputs) if len(part.outputs) > 1 else ()
        parameter = WeightParameter(data, shards, self.dummy)
        if self.optional:
            parameter.optional = True
            self.dummy(parameter.data, torch.Generator(part.device))
        load = _load_scalars if self.per_output else _load_slices
        parameter.weight_loader = partial(load, parameter.data, self, part)
        return parameter


def _load_scalars(
    target: torch.Tensor, stored: StoredTensor, part: LinearPart, loaded: Loaded, shard: str | None
) -> None:
    """Load a scalar per output. A single scalar for all outputs is copied to each."""
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
    """Load the part's slices of one output (`shard`) or of all of them, stacked."""
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
        start, held = _elements(part.inputs, stored.input_divisor)
        loaded = loaded.narrow(columns, start, held)
        target.narrow(columns, held, target.shape[columns] - held).zero_()  # padding
        target = target.narrow(columns, 0, held)
    if rows is None:
        copy_weight(target, loaded)
        return
    divisor = stored.output_divisor
    source_offset = 0  # of the output in `loaded`, which may hold several
    target_offset = 0
    for name, output in part.outputs.items():
        length = output.length // divisor
        if name in names:
            place = target.narrow(rows, target_offset, length)
            start, held = _elements(output, divisor)
            source = loaded.narrow(rows, source_offset + start, held)
            copy_weight(place.narrow(rows, 0, held), source)
            place.narrow(rows, held, length - held).zero_()  # padding
            source_offset += output.full // divisor
        target_offset += length


def _elements(part: Slice, divisor: int) -> tuple[int, int]:
    """(start, length) of the slice's features, without padding, in elements of `divisor` features.
    Raises WeightSplitError if an element covers features of another slice too.
    """
    end = part.start + part.held
    if part.start % divisor or (end % divisor and end < part.full):
        raise WeightSplitError(divisor)
    return part.start // divisor, part.held // divisor


class LinearMethod(Protocol):
    def parameters(self, part: LinearPart) -> dict[str, WeightParameter]:
        """Allocate the parameters of a part, by their names in a checkpoint."""

    def finish_loading(self, tensors: dict[str, torch.Tensor]) -> None:
        """Called once after loading. May replace tensors in the dict by repacked ones."""

    def apply(self, tensors: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """x [n, in_features] -> [n, out_features], with `tensors["bias"]` added if present"""


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
    """Dtype, device, rank and storage of a model's weights, passed to every layer's constructor.

    `path`: the module that the layer becomes, such as `model.layers.0.mlp`. `method_at` gives the
    storage of the linear layer at a path; None: `linear_method` stores every layer.
    """

    dtype: torch.dtype
    device: torch.device
    parallel: TensorParallel = field(default_factory=TensorParallel)
    linear_method: LinearMethod = field(default_factory=DenseMethod)
    expert_parallel: bool = False  # ranks hold whole experts, not a slice of each
    path: str = ""
    method_at: Callable[[str], LinearMethod] | None = None

    def inside(self, name: str | int) -> Placement:
        """The placement of the part called `name`."""
        path = f"{self.path}.{name}" if self.path else str(name)
        method = self.linear_method if self.method_at is None else self.method_at(path)
        return replace(self, path=path, linear_method=method)
