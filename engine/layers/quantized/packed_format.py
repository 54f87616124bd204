"""Checkpoints of compressed-tensors' format `pack-quantized` (llm-compressor's W4A16, W8A16)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from formgate.engine.layers.parameter import WeightParameter
from formgate.engine.layers.quantized.group_index import common_groups, group_index
from formgate.engine.layers.quantized.grouped import (
    GroupedWeight,
    by_group,
    random_words,
    small_scales,
    unpack_integers,
)
from formgate.engine.layers.storage import LinearPart, StoredTensor


@dataclass(frozen=True, slots=True)
class PackedFormat:
    """With n values in a word: `weight_packed` int32 [out_features, in_features / n],
    `weight_scale` [out_features, groups], `weight_zero_point` int32 [out_features / n, groups]
    unless `symmetric`, `weight_g_idx` int32 [in_features] if `by_activation`. Values and zero
    points are stored plus half their range.
    """

    bits: int
    group_size: int  # -1: one group for all inputs
    symmetric: bool
    by_activation: bool

    @classmethod
    def of(cls, weights: Mapping[str, Any]) -> PackedFormat | None:
        """`weights`: of a config group. None: not supported."""
        strategy = weights.get("strategy")
        supported = weights.get("type") == "int" and weights.get("num_bits") in (4, 8)
        if not supported or strategy not in ("group", "channel"):
            return None
        size = int(weights["group_size"]) if strategy == "group" else -1
        by_activation = weights.get("actorder") in ("group", True) and size != -1
        return cls(weights["num_bits"], size, bool(weights.get("symmetric", True)), by_activation)

    def parameters(self, part: LinearPart) -> dict[str, WeightParameter]:
        per_word = 32 // self.bits
        split = not self.by_activation
        stored = [
            StoredTensor(
                "weight_packed",
                (part.out_features, part.inputs.length // per_word),
                torch.int32,
                output_dim=0,
                input_dim=1,
                input_divisor=per_word,
                dummy=random_words,
            ),
            by_group(
                "weight_scale",
                part,
                self.group_size,
                torch.float32,
                dummy=small_scales,
                groups_first=False,
                split=split,
            ),
        ]
        if not self.symmetric:
            zeros = by_group(
                "weight_zero_point",
                part,
                self.group_size,
                torch.int32,
                per_word=per_word,
                dummy=_middle,
                groups_first=False,
                split=split,
            )
            stored.append(zeros)
        parameters = {one.name: one.parameter(part) for one in stored}
        if self.by_activation:
            parameters["weight_g_idx"] = group_index(part, self.group_size)
        return parameters

    def unpack(self, tensors: Mapping[str, torch.Tensor]) -> GroupedWeight:
        values = unpack_integers(tensors["weight_packed"], self.bits, dim=1)
        scales = tensors["weight_scale"].t().contiguous()
        if self.symmetric:
            zeros = torch.full_like(scales, 2 ** (self.bits - 1), dtype=torch.uint8)
        else:
            zeros = unpack_integers(tensors["weight_zero_point"], self.bits, dim=0).t()
        groups = None
        if self.by_activation:
            groups = common_groups(tensors["weight_g_idx"], len(scales))
        return GroupedWeight(values, scales, zeros, groups)

    def dequantize(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self.unpack(tensors).dequantize()


def _middle(target: torch.Tensor, generator: torch.Generator) -> None:
    """Dummy packed zero points of 4 bits: 8"""
    target.fill_(0x88888888 - (1 << 32))
