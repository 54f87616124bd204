"""AWQ checkpoints (Lin et al., arXiv:2306.00978) as AutoAWQ's `gemm` version writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from formgate.engine.errors import EngineStartError
from formgate.engine.layers.parameter import WeightParameter
from formgate.engine.layers.quantized.grouped import (
    GroupedWeight,
    by_group,
    random_words,
    small_scales,
    unpack_integers,
)
from formgate.engine.layers.storage import LinearPart, StoredTensor

# Output of each 4-bit field of a word, from the lowest bits up; then the inverse.
OUTPUT_OF_FIELD = (0, 2, 4, 6, 1, 3, 5, 7)
FIELD_OF_OUTPUT = tuple(OUTPUT_OF_FIELD.index(output) for output in range(8))


@dataclass(frozen=True, slots=True)
class AwqFormat:
    """`qweight` int32 [in_features, out_features / 8], `qzeros` int32 [groups, out_features / 8],
    `scales` [groups, out_features]. A word holds 8 outputs in the order `OUTPUT_OF_FIELD`.
    """

    bits: ClassVar[int] = 4
    group_size: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> AwqFormat:
        """Raises EngineStartError for a variant that is not supported."""
        bits = config.get("bits", config.get("w_bit", 4))
        version = str(config.get("version", "gemm")).lower()
        if bits != 4 or version != "gemm" or not config.get("zero_point", True):
            raise EngineStartError(
                f"AWQ with bits {bits}, version {version!r}, zero_point "
                f"{config.get('zero_point', True)} is not supported (supported: bits 4, version "
                "'gemm', zero_point True)"
            )
        return cls(int(config.get("group_size", config.get("q_group_size", 128))))

    def parameters(self, part: LinearPart) -> dict[str, WeightParameter]:
        stored = (
            StoredTensor(
                "qweight",
                (part.inputs.length, part.out_features // 8),
                torch.int32,
                output_dim=1,
                input_dim=0,
                output_divisor=8,
                dummy=random_words,
            ),
            by_group("qzeros", part, self.group_size, torch.int32, per_word=8, dummy=eights),
            by_group("scales", part, self.group_size, torch.float32, dummy=small_scales),
        )
        return {one.name: one.parameter(part) for one in stored}

    def unpack(self, tensors: Mapping[str, torch.Tensor]) -> GroupedWeight:
        values = _in_order(tensors["qweight"]).t().contiguous()
        return GroupedWeight(values, tensors["scales"], _in_order(tensors["qzeros"]))

    def dequantize(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self.unpack(tensors).dequantize()


def _in_order(packed: torch.Tensor) -> torch.Tensor:
    """int32 [n, out_features / 8] -> uint8 [n, out_features]"""
    values = unpack_integers(packed, 4, dim=1)
    return values.view(-1, packed.shape[1], 8)[:, :, list(FIELD_OF_OUTPUT)].flatten(1)


def eights(target: torch.Tensor, generator: torch.Generator) -> None:
    """Dummy packed zero points: 8, the middle of the values."""
    target.fill_(0x88888888 - (1 << 32))
