"""MXFP4, as gpt-oss's experts are published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from formgate.engine.errors import EngineStartError
from formgate.engine.layers.parameter import WeightParameter
from formgate.engine.layers.quantized.grouped import random_words
from formgate.engine.layers.storage import LinearPart, StoredTensor
from formgate.kernels.experts.mxfp4 import GROUP, dequantize_mxfp4


@dataclass(frozen=True, slots=True)
class Mxfp4Format:
    """`blocks` uint8 [out_features, groups, 16] and `scales` uint8 [out_features, groups]: see
    `dequantize_mxfp4`. The ranks' shares of inputs must be whole groups.
    """

    group: int = GROUP

    def parameters(self, part: LinearPart) -> dict[str, WeightParameter]:
        """Raises EngineStartError if the inputs are no whole groups."""
        if part.inputs.full % self.group:
            raise EngineStartError(
                f"MXFP4 stores groups of {self.group} inputs, but the config gives a matrix "
                f"{part.inputs.full} of them"
            )
        groups = part.inputs.length // self.group
        stored = [
            StoredTensor(
                "blocks",
                (part.out_features, groups, self.group // 2),
                torch.uint8,
                output_dim=0,
                input_dim=1,
                input_divisor=self.group,
                dummy=random_words,
            ),
            StoredTensor(
                "scales",
                (part.out_features, groups),
                torch.uint8,
                output_dim=0,
                input_dim=1,
                input_divisor=self.group,
                dummy=_small,
            ),
        ]
        return {one.name: one.parameter(part) for one in stored}

    def dequantize(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return dequantize_mxfp4(tensors["blocks"], tensors["scales"])


def _small(target: torch.Tensor, generator: torch.Generator) -> None:
    """2 ** -7, so that the values are about as small as those of `small_normal`."""
    target.fill_(120)
