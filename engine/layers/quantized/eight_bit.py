"""Weights of 8 bits with a scale for the matrix, for each output, or for each block; activations
are quantized too: FP8 and INT8 checkpoints of Hugging Face, DeepSeek and compressed-tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, runtime_checkable

import torch

from formgate.engine.errors import EngineStartError
from formgate.engine.layers.parameter import (
    Loaded,
    WeightParameter,
    WeightShapeError,
    WeightSplitError,
    read,
)
from formgate.engine.layers.storage import DenseMethod, LinearPart, StoredTensor
from formgate.kernels.quantized.quantize_rows import quantize_rows_ref
from formgate.kernels.quantized.w8a8_linear import w8a8_linear

FP8 = torch.float8_e4m3fn


@dataclass(frozen=True, slots=True)
class EightBitWeight:
    values: torch.Tensor  # float8 or int8 [out_features, in_features]
    scales: torch.Tensor  # float32 [out_features]
    input_scale: torch.Tensor | None  # float32 []; None: each row of the input has its own


@runtime_checkable
class EightBitFormat(Protocol):
    """A `WeightFormat` whose weight has one scale for each output."""

    def parameters(self, part: LinearPart) -> dict[str, WeightParameter]: ...

    def dequantize(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor: ...

    def eight_bits(self, tensors: Mapping[str, torch.Tensor]) -> EightBitWeight: ...


@dataclass(frozen=True, slots=True)
class ScaledFormat:
    """`weight` [out_features, in_features], `weight_scale` of one number or [out_features, 1], and
    `input_scale` of one number if activations are `static`.
    """

    dtype: torch.dtype
    strategy: Literal["tensor", "channel"]
    static: bool = False

    def parameters(self, part: LinearPart) -> dict[str, WeightParameter]:
        outputs, of_tensor = len(part.outputs), self.strategy == "tensor"
        stored = [
            _values(self.dtype, part),
            StoredTensor(
                "weight_scale",
                (outputs,) if of_tensor else (part.out_features, 1),
                torch.float32,
                output_dim=None if of_tensor else 0,
                input_dim=None,
                per_output=of_tensor,
                dummy=small_scale,
            ),
        ]
        if self.static:
            scale = StoredTensor(
                "input_scale",
                (outputs,),
                torch.float32,
                output_dim=None,
                input_dim=None,
                per_output=True,
                dummy=small_scale,
            )
            stored.append(scale)
        parameters = {one.name: one.parameter(part) for one in stored}
        if of_tensor:
            # The number of outputs that each scale is for, which is not in a checkpoint.
            lengths = [one.length for one in part.outputs.values()]
            rows = torch.tensor(lengths, dtype=torch.int64, device=part.device)
            parameters["rows"] = fixed(rows)
        return parameters

    def eight_bits(self, tensors: Mapping[str, torch.Tensor]) -> EightBitWeight:
        scales = tensors["weight_scale"].flatten()
        if self.strategy == "tensor":
            scales = scales.repeat_interleave(tensors["rows"])
        # Stacked matrices have one input: the largest scale holds all its values.
        scale = tensors["input_scale"].max() if self.static else None
        return EightBitWeight(tensors["weight"], scales, scale)

    def dequantize(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        weight = self.eight_bits(tensors)
        return weight.values.float() * weight.scales.unsqueeze(1)


@dataclass(frozen=True, slots=True)
class OnlineFormat:
    """`weight` in the model's dtype, quantized to FP8 when it is loaded (`--quantization fp8`)."""

    def parameters(self, part: LinearPart) -> dict[str, WeightParameter]:
        return DenseMethod().parameters(part)

    def eight_bits(self, tensors: Mapping[str, torch.Tensor]) -> EightBitWeight:
        values, scales = quantize_rows_ref(tensors["weight"], FP8)
        return EightBitWeight(values, scales.flatten(), None)

    def dequantize(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        weight = self.eight_bits(tensors)
        return weight.values.float() * weight.scales.unsqueeze(1)


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """`weight` float8 [out_features, in_features] and `weight_scale_inv`, a factor for each block
    of `rows` outputs and `columns` inputs, as DeepSeek-V3's (arXiv:2412.19437, section 3.3).
    """

    rows: int
    columns: int

    def parameters(self, part: LinearPart) -> dict[str, WeightParameter]:
        weight = _values(FP8, part)
        # Ranks and stacked outputs may cut blocks of rows, so that each row has its scales.
        shape = (part.out_features, -(-part.inputs.length // self.columns))
        data = torch.empty(shape, dtype=torch.float32, device=part.device)
        shards = tuple(part.outputs) if len(part.outputs) > 1 else ()
        scales = WeightParameter(data, shards, small_scale)
        scales.weight_loader = partial(_load_blocks, scales.data, part, self)
        return {"weight": weight.parameter(part), "weight_scale_inv": scales}

    def dequantize(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        weight = tensors["weight"].float()
        scales = tensors["weight_scale_inv"].repeat_interleave(self.columns, dim=1)
        return weight.mul_(scales[:, : weight.shape[1]])


def _load_blocks(
    target: torch.Tensor, part: LinearPart, blocks: BlockFormat, loaded: Loaded, shard: str | None
) -> None:
    names = tuple(part.outputs) if shard is None else (shard,)
    inputs = part.inputs
    full = sum(part.outputs[name].full for name in names)
    expected = (-(-full // blocks.rows), -(-inputs.full // blocks.columns))
    if tuple(loaded.shape) != expected:
        raise WeightShapeError(loaded.shape, expected)
    if inputs.start % blocks.columns:
        raise WeightSplitError(blocks.columns)
    first = inputs.start // blocks.columns
    held = -(-inputs.held // blocks.columns)
    scales = read(loaded.narrow(1, first, held)).to(target.device, target.dtype)
    source = place = 0
    for name, output in part.outputs.items():
        if name in names:
            rows = torch.arange(output.held, device=target.device) + source + output.start
            target[place : place + output.length].zero_()  # padding
            target[place : place + output.held, :held] = scales[rows // blocks.rows]
            source += output.full
        place += output.length


@dataclass(frozen=True, slots=True)
class EightBitMethod:
    """Multiplies 8-bit weights by 8-bit activations."""

    format: EightBitFormat

    def parameters(self, part: LinearPart) -> dict[str, WeightParameter]:
        return self.format.parameters(part)

    def finish_loading(self, tensors: dict[str, torch.Tensor]) -> None:
        weight = self.format.eight_bits(tensors)
        bias = tensors.get("bias")
        tensors.clear()
        # A view would lose its memory with the loaded tensor.
        tensors.update(weight=weight.values, scales=weight.scales.clone())
        if weight.input_scale is not None:
            tensors["input_scale"] = weight.input_scale
        if bias is not None:
            tensors["bias"] = bias

    def apply(self, tensors: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = w8a8_linear(
            x,
            tensors["weight"],
            tensors["scales"],
            tensors.get("input_scale"),
            tensors.get("bias"),
        )
        return out


def _values(dtype: torch.dtype, part: LinearPart) -> StoredTensor:
    shape = (part.out_features, part.inputs.length)
    return StoredTensor("weight", shape, dtype, output_dim=0, input_dim=1, dummy=wide_normal)


def fixed(values: torch.Tensor) -> WeightParameter:
    """A parameter that no checkpoint fills."""
    parameter = WeightParameter(values, (), lambda target, generator: None)
    parameter.optional = True
    parameter.weight_loader = _refuse
    return parameter


def _refuse(loaded: Loaded, shard: str | None) -> None:
    raise EngineStartError("the checkpoint holds a tensor that formgate makes by itself")


def wide_normal(target: torch.Tensor, generator: torch.Generator) -> None:
    """Dummy 8-bit values; with `small_scale`, weights as small as those of `small_normal`."""
    wide = torch.empty(target.shape, dtype=torch.float32, device=target.device)
    target.copy_(wide.normal_(0.0, 32.0, generator=generator).clamp_(-127, 127))


def small_scale(target: torch.Tensor, generator: torch.Generator) -> None:
    target.fill_(0.02 / 32)
