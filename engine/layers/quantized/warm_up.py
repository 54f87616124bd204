"""The launches that compile the kernels of quantized layers, one for each variant."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from functools import partial

import torch
from torch import nn

from formgate.engine.layers.linear import Linear
from formgate.engine.layers.quantized.grouped import GroupedMethod
from formgate.kernels.quantized.grouped_linear import MAX_ROWS, TYPES, tiles_of


def linear_tasks(
    model: nn.Module, dtype: torch.dtype, device: torch.device
) -> Iterator[Callable[[], None]]:
    """For each number of rows that the kernels tell apart, one layer of each variant."""
    seen: set[Hashable] = set()
    for module in model.modules():
        if not isinstance(module, Linear) or not isinstance(module.method, GroupedMethod):
            continue
        if dtype not in TYPES:
            continue  # dequantized
        tensors = module.tensors
        blocks, outputs = tensors["words"].shape[:2]
        groups = tensors["groups"]
        for rows in (8, 16, 32, MAX_ROWS, MAX_ROWS + 1):
            split = rows <= MAX_ROWS and tiles_of(rows, outputs, blocks).splits > 1
            group = blocks / groups.shape[0] if groups.shape[0] > 1 else 0
            kind = (module.method, rows, split, group, groups.dtype, "bias" in tensors)
            if kind not in seen:
                seen.add(kind)
                x = torch.zeros((rows, module.inputs.length), dtype=dtype, device=device)
                yield partial(_launch, module, x)


def _launch(layer: Linear, x: torch.Tensor) -> None:
    layer.method.apply(layer.tensors, x)
