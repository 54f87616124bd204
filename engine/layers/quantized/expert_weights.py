"""The matrices of all experts of a layer, from those of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from formgate.engine.layers.quantized.dequantized import DequantizedMethod
from formgate.engine.layers.quantized.eight_bit import BlockFormat, EightBitMethod
from formgate.engine.layers.quantized.grouped import GroupedMethod, in_equal_groups
from formgate.engine.layers.quantized.mxfp4 import Mxfp4Format
from formgate.engine.layers.storage import LinearMethod
from formgate.kernels.experts.mxfp4 import Mxfp4Experts, pack_mxfp4
from formgate.kernels.experts.quantized_weights import (
    ExpertWeights,
    PackedExperts,
    ScaledExperts,
)
from formgate.kernels.quantized.packed_weight import pack_weight

Tensors = Mapping[str, torch.Tensor]


def stack_experts(
    method: LinearMethod, experts: Iterable[Tensors], dtype: torch.dtype
) -> ExpertWeights:
    """The weights as `method` stores those of a linear layer, as far as the experts' kernels know
    its format; in `dtype` otherwise.
    """
    experts = list(experts)
    match method:
        case GroupedMethod():
            packed = _packed(method, experts)
            if packed is not None:
                return packed
        case EightBitMethod():
            parts = [method.format.eight_bits(tensors) for tensors in experts]
            values = torch.stack([part.values for part in parts])
            scales = torch.stack([part.scales for part in parts]).unsqueeze(2)
            return ScaledExperts(values, scales.contiguous(), values.shape[2])
        case DequantizedMethod(format=BlockFormat(columns=columns)) if on_gpu(experts):
            values = torch.stack([tensors["weight"] for tensors in experts])
            scales = torch.stack([tensors["weight_scale_inv"] for tensors in experts])
            if columns & (columns - 1) == 0:
                return ScaledExperts(values, scales, columns)
        case DequantizedMethod(format=Mxfp4Format()) if on_gpu(experts):
            packed4 = [pack_mxfp4(tensors["blocks"], tensors["scales"]) for tensors in experts]
            words, scales = (torch.stack(parts) for parts in zip(*packed4, strict=True))
            return Mxfp4Experts(words, scales)
    assert isinstance(method, DequantizedMethod | EightBitMethod | GroupedMethod)
    return torch.stack([method.format.dequantize(tensors).to(dtype) for tensors in experts])


def features_together(method: LinearMethod) -> int:
    """Number of neighbouring inputs that the ranks must not cut, and that may be padded to."""
    match method:
        case DequantizedMethod(format=Mxfp4Format(group=group)):
            return group
    return 1


def on_gpu(experts: list[Tensors]) -> bool:
    return next(iter(experts[0].values())).is_cuda


def _packed(method: GroupedMethod, experts: list[Tensors]) -> PackedExperts | None:
    """None: the experts have their inputs in orders of their own."""
    bits, packed = method.format.bits, []
    for tensors in experts:
        weight, order = in_equal_groups(method.format.unpack(tensors), bits)
        if order is not None:
            return None
        packed.append(pack_weight(weight.values, weight.scales, weight.zeros, bits))
    if len({one.groups.dtype for one in packed}) > 1:
        return None
    return PackedExperts(
        torch.stack([one.words for one in packed]),
        torch.stack([one.groups for one in packed]),
        packed[0].in_features,
        bits,
    )
