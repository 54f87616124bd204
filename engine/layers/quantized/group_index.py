"""The group of each input where a quantizer chose them by activation order."""

from __future__ import annotations

from functools import partial

import torch

from formgate.engine.errors import EngineStartError
from formgate.engine.layers.parameter import (
    Loaded,
    WeightParameter,
    WeightShapeError,
    copy_weight,
)
from formgate.engine.layers.storage import LinearPart


def group_index(part: LinearPart, group_size: int) -> WeightParameter:
    """int32 [stacked outputs, in_features]; the checkpoint holds a row for each output."""
    shape = (len(part.outputs), part.inputs.length)
    data = torch.zeros(shape, dtype=torch.int32, device=part.device)
    shards = tuple(part.outputs) if len(part.outputs) > 1 else ()
    start = part.inputs.start

    def dummy(target: torch.Tensor, generator: torch.Generator) -> None:
        inputs = torch.arange(start, start + shape[1], device=target.device)
        target.copy_((inputs // group_size).clamp(max=part.inputs.full // group_size - 1))

    parameter = WeightParameter(data, shards, dummy)
    parameter.weight_loader = partial(_load, parameter.data, part)
    return parameter


def _load(target: torch.Tensor, part: LinearPart, loaded: Loaded, shard: str | None) -> None:
    if tuple(loaded.shape) != (part.inputs.full,):
        raise WeightShapeError(loaded.shape, (part.inputs.full,))
    held = loaded.narrow(0, part.inputs.start, part.inputs.held)
    rows = range(len(target)) if shard is None else [list(part.outputs).index(shard)]
    for row in rows:
        copy_weight(target[row, : part.inputs.held], held)


def common_groups(index: torch.Tensor, num_groups: int) -> torch.Tensor:
    """int64 [in_features]. Raises EngineStartError if the stacked matrices differ in it, or if it
    names a group that is not there.
    """
    first = index[0]
    if bool((index != first).any()):
        raise EngineStartError(
            "the checkpoint's matrices of one product (query, key, value or gate, up) differ in "
            "their activation order"
        )
    if bool((first < 0).any()) or bool((first >= num_groups).any()):
        raise EngineStartError(f"the checkpoint's g_idx names groups outside of {num_groups}")
    return first.long()
