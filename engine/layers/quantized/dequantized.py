"""Quantized checkpoints where no kernel multiplies their weights: dequantized once, when loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from formgate.engine.layers.parameter import WeightParameter
from formgate.engine.layers.storage import LinearMethod, LinearPart


class WeightFormat(Protocol):
    """The tensors in which a checkpoint stores one linear layer."""

    def parameters(self, part: LinearPart) -> dict[str, WeightParameter]:
        """Allocate the tensors of a part, by their names in a checkpoint."""

    def dequantize(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The weight [out_features, in_features], in float32"""


@dataclass(frozen=True, slots=True)
class DequantizedMethod:
    """Reads `format` and stores the weight by `dense`, in `dtype`. Activations stay in `dtype` even
    if the format would quantize them.
    """

    format: WeightFormat
    dense: LinearMethod
    dtype: torch.dtype

    def parameters(self, part: LinearPart) -> dict[str, WeightParameter]:
        return self.format.parameters(part)

    def finish_loading(self, tensors: dict[str, torch.Tensor]) -> None:
        weight = self.format.dequantize(tensors).to(self.dtype)
        bias = tensors.get("bias")
        tensors.clear()
        tensors["weight"] = weight
        if bias is not None:
            tensors["bias"] = bias
        self.dense.finish_loading(tensors)

    def apply(self, tensors: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return self.dense.apply(tensors, x)
