"""Weights of 4 or 8 bits with a scale and a zero point for each group of inputs (W4A16, W8A16):
what AWQ, GPTQ and compressed-tensors' packed checkpoints have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from formgate.engine.errors import EngineStartError
from formgate.engine.layers.parameter import Dummy, WeightParameter
from formgate.engine.layers.storage import LinearPart, StoredTensor
from formgate.kernels.quantized.grouped_linear import grouped_linear, new_locks
from formgate.kernels.quantized.packed_weight import PackedWeight, can_pack, pack_weight


@dataclass(frozen=True, slots=True)
class GroupedWeight:
    """`(values - zeros) * scales`, with the scale and zero point of the input's group. `groups` is
    the group of each input; None: consecutive groups of equal size.
    """

    values: torch.Tensor  # uint8 [out_features, in_features]
    scales: torch.Tensor  # [groups, out_features]
    zeros: torch.Tensor  # uint8 [groups, out_features]
    groups: torch.Tensor | None = None  # int64 [in_features]

    @property
    def group_of_inputs(self) -> torch.Tensor:
        if self.groups is not None:
            return self.groups
        inputs, groups = self.values.shape[1], self.scales.shape[0]
        return torch.arange(inputs, device=self.values.device) // (inputs // groups)

    def dequantize(self) -> torch.Tensor:
        """float32 [out_features, in_features]"""
        of_inputs = self.group_of_inputs
        zeros = self.zeros.t().float()[:, of_inputs]
        return self.values.float().sub_(zeros).mul_(self.scales.t().float()[:, of_inputs])


@runtime_checkable
class GroupedFormat(Protocol):
    """How a checkpoint packs a `GroupedWeight` into integers of `bits`."""

    @property
    def bits(self) -> int: ...

    def parameters(self, part: LinearPart) -> dict[str, WeightParameter]:
        """As `LinearMethod.parameters`"""

    def dequantize(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """As `WeightFormat.dequantize`"""

    def unpack(self, tensors: Mapping[str, torch.Tensor]) -> GroupedWeight: ...


@dataclass(frozen=True, slots=True)
class GroupedMethod:
    """Reads `format` and stores every layer in the layout of `kernels/quantized`, whichever the
    checkpoint's is.
    """

    format: GroupedFormat

    def parameters(self, part: LinearPart) -> dict[str, WeightParameter]:
        return self.format.parameters(part)

    def finish_loading(self, tensors: dict[str, torch.Tensor]) -> None:
        weight, order = in_equal_groups(self.format.unpack(tensors), self.format.bits)
        packed = pack_weight(weight.values, weight.scales, weight.zeros, self.format.bits)
        bias = tensors.get("bias")
        tensors.clear()
        tensors.update(words=packed.words, groups=packed.groups, locks=new_locks(packed))
        if order is not None:
            tensors["order"] = order
        if bias is not None:
            tensors["bias"] = bias

    def apply(self, tensors: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        if "order" in tensors:
            x = x.index_select(1, tensors["order"])
        weight = PackedWeight(tensors["words"], tensors["groups"], x.shape[1], self.format.bits)
        out: torch.Tensor = grouped_linear(x, weight, tensors.get("bias"), locks=tensors["locks"])
        return out


SMALLEST_GROUP = 32  # that the kernels read


def in_equal_groups(weight: GroupedWeight, bits: int) -> tuple[GroupedWeight, torch.Tensor | None]:
    """The weight with consecutive groups of equal size that the kernels read, and the input of each
    of its columns; None: the inputs in their order. Columns that fill up a group repeat an input
    with a weight of 0.
    """
    inputs = weight.values.shape[1]
    of_inputs = weight.group_of_inputs
    count = weight.scales.shape[0]
    in_order = torch.equal(of_inputs, of_inputs.sort().values)
    sizes = of_inputs.bincount(minlength=count)
    if bool((sizes == sizes[0]).all()) and can_pack(inputs, count, bits):
        if in_order:
            return weight, None
        order = of_inputs.argsort(stable=True)
        return GroupedWeight(weight.values[:, order], weight.scales, weight.zeros), order
    # A rank's inputs of a matrix with activation order, or odd groups: each becomes several small
    # ones, the last filled up.
    pieces = -(-sizes // SMALLEST_GROUP)
    owners = torch.repeat_interleave(torch.arange(count, device=sizes.device), pieces)
    starts = (pieces.cumsum(0) - pieces) * SMALLEST_GROUP
    by_group = of_inputs.argsort(stable=True)
    within = (
        torch.arange(inputs, device=sizes.device) - (sizes.cumsum(0) - sizes)[of_inputs[by_group]]
    )
    columns = starts[of_inputs[by_group]] + within
    total = len(owners) * SMALLEST_GROUP
    order = torch.zeros(total, dtype=torch.int64, device=sizes.device)
    order[columns] = by_group
    zeros = weight.zeros[owners]
    values = zeros.t().repeat_interleave(SMALLEST_GROUP, dim=1).contiguous()
    values[:, columns] = weight.values[:, by_group]
    identity = torch.arange(inputs, device=sizes.device)
    unmoved = total == inputs and torch.equal(order, identity)
    return GroupedWeight(values, weight.scales[owners], zeros), None if unmoved else order


def unpack_integers(packed: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """int32 words along `dim` -> uint8 values, the lowest bits of a word first."""
    assert packed.dtype is torch.int32
    per_word = 32 // bits
    planes = [(packed >> (bits * i) & (2**bits - 1)).to(torch.uint8) for i in range(per_word)]
    return torch.stack(planes, dim=dim + 1).flatten(dim, dim + 1)


def by_group(
    name: str,
    part: LinearPart,
    group_size: int,
    dtype: torch.dtype,
    *,
    dummy: Dummy,
    per_word: int = 1,
    groups_first: bool = True,
    split: bool = True,
) -> StoredTensor:
    """A tensor over groups of inputs and outputs; in its words are `per_word` outputs. A
    `group_size` of -1 is one group for all inputs. Without `split` every rank holds all groups.
    Raises EngineStartError if a group would be cut.
    """
    full = part.inputs.full
    if group_size != -1 and full % group_size:
        raise EngineStartError(
            f"the quantization's group_size {group_size} does not divide a layer's {full} inputs"
        )
    whole = group_size == -1 or not split
    size = full if group_size == -1 else group_size
    groups = full // size if whole else -(-part.inputs.length // size)
    outputs = part.out_features // per_word
    return StoredTensor(
        name,
        (groups, outputs) if groups_first else (outputs, groups),
        dtype,
        output_dim=1 if groups_first else 0,
        input_dim=None if whole else 1 - groups_first,
        output_divisor=per_word,
        input_divisor=size,
        dummy=dummy,
    )


def random_words(target: torch.Tensor, generator: torch.Generator) -> None:
    """Dummy packed integers: every bit is random."""
    target.view(torch.uint8).random_(0, 256, generator=generator)


def small_scales(target: torch.Tensor, generator: torch.Generator) -> None:
    """Dummy scales of 4-bit weights: their products are as small as those of `small_normal`."""
    target.fill_(0.004)
