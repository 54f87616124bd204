"""The quantized matrices of all experts of a layer."""

from dataclasses import dataclass

import torch

from formgate.kernels.experts.mxfp4 import Mxfp4Experts
from formgate.kernels.quantized.packed_weight import PackedWeight, unpack_ref, unpack_triton

__all__ = [
    "ExpertWeights",
    "Mxfp4Experts",
    "PackedExperts",
    "ScaledExperts",
    "dense_weights",
    "matrix_of",
]


@dataclass(frozen=True, slots=True)
class ScaledExperts:
    """float8 or int8 `values` [num_experts, out_features, in_features] with float32 `scales`
    [num_experts, out_features, groups], of `columns` inputs each, a power of 2; one group may have
    any number.
    """

    values: torch.Tensor
    scales: torch.Tensor
    columns: int

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    def dense(self, expert: int | slice, dtype: torch.dtype) -> torch.Tensor:
        scales = self.scales[expert].repeat_interleave(self.columns, dim=-1)
        scales = scales[..., : self.values.shape[-1]]
        return (self.values[expert].to(dtype) * scales.to(dtype)).to(dtype)


@dataclass(frozen=True, slots=True)
class PackedExperts:
    """As `PackedWeight`, with the experts before the other dimensions: `words` int32
    [num_experts, blocks, out_features, 16], `groups` [num_experts, groups, out_features, 2].
    """

    words: torch.Tensor
    groups: torch.Tensor
    in_features: int
    bits: int

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.words.shape[0], self.words.shape[2], self.in_features))

    def of(self, expert: int) -> PackedWeight:
        return PackedWeight(self.words[expert], self.groups[expert], self.in_features, self.bits)

    def dense(self, expert: int, dtype: torch.dtype) -> torch.Tensor:
        unpack = unpack_triton if self.words.is_cuda else unpack_ref
        return unpack(self.of(expert), dtype)


ExpertWeights = torch.Tensor | ScaledExperts | PackedExperts | Mxfp4Experts


def matrix_of(weights: ExpertWeights, expert: int, dtype: torch.dtype) -> torch.Tensor:
    """[out_features, in_features]"""
    return weights[expert] if isinstance(weights, torch.Tensor) else weights.dense(expert, dtype)


def dense_weights(weights: ExpertWeights, dtype: torch.dtype) -> torch.Tensor:
    """[num_experts, out_features, in_features]"""
    match weights:
        case ScaledExperts() | Mxfp4Experts():
            return weights.dense(slice(None), dtype)
        case PackedExperts():
            return torch.stack([weights.dense(e, dtype) for e in range(weights.shape[0])])
    return weights
