"""Weights of 4 or 8 bits with a scale and a zero point for each group of inputs (W4A16, W8A16):
what AWQ, GPTQ and compressed-tensors' packed checkpoints have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from formgate.engine.errors import EngineStartError
from formgate.engine.layers.parameter import Dummy, WeightParameter
from formgate.engine.layers.storage import LinearPart, StoredTensor


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


class GroupedFormat(Protocol):
    """How a checkpoint packs a `GroupedWeight` into integers."""

    @property
    def bits(self) -> int: ...

    def parameters(self, part: LinearPart) -> dict[str, WeightParameter]:
        """As `LinearMethod.parameters`"""

    def unpack(self, tensors: Mapping[str, torch.Tensor]) -> GroupedWeight: ...

    def dequantize(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """As `WeightFormat.dequantize`"""


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
