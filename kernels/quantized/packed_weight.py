"""The kernels' layout of 4- and 8-bit weights with a scale and a zero point for each group of
inputs, and the kernel that dequantizes them.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from formgate.kernels.jit import tl, triton

__all__ = [
    "PLANE",
    "WORDS",
    "PackedWeight",
    "can_pack",
    "pack_weight",
    "scales_of",
    "unpack_ref",
    "unpack_triton",
]

WORDS = 16  # of one output in a block of inputs
PLANE = 2 * WORDS  # inputs that one shift of a block's words unpacks


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight [out_features, in_features] in the kernels' layout.

    `words` int32 [blocks, out_features, 16]: a block is 128 inputs of 4 bits or 64 of 8 bits. From
    bit `bits * p` on, the halves of word w hold its inputs 32 p + 2 w and 32 p + 2 w + 1: a masked
    word is a pair of consecutive inputs, as a matrix instruction reads them.
    `groups` float16 or bfloat16 [groups, out_features, 2]: the scale, and the zero point as 16
    integer bits. A group is consecutive inputs, of the same number in each: a multiple of 32 that
    divides a block or is a multiple of it, or all inputs.
    """

    words: torch.Tensor
    groups: torch.Tensor
    in_features: int
    bits: int

    @property
    def out_features(self) -> int:
        return self.words.shape[1]

    @property
    def block(self) -> int:
        """Inputs in a block."""
        return WORDS * 32 // self.bits

    @property
    def group_size(self) -> int:
        count = self.groups.shape[0]
        return self.words.shape[0] * self.block if count == 1 else self.in_features // count


def can_pack(in_features: int, num_groups: int, bits: int) -> bool:
    """True if `PackedWeight` holds groups of this size."""
    if num_groups == 1:
        return True
    block, size = WORDS * 32 // bits, in_features // num_groups
    return (
        size * num_groups == in_features
        and size % PLANE == 0
        and not (block % size and size % block)
    )


def pack_weight(
    values: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, bits: int
) -> PackedWeight:
    """values uint8 [out_features, in_features], scales and zeros [groups, out_features]. A scale is
    rounded only if neither float16 nor bfloat16 holds it.
    """
    outputs, inputs = values.shape
    assert can_pack(inputs, scales.shape[0], bits)
    block, per_half = WORDS * 32 // bits, 16 // bits
    blocks = -(-inputs // block)
    padded = F.pad(values, (0, blocks * block - inputs))
    fields = padded.view(outputs, blocks, per_half, WORDS, 2).int()
    words = torch.zeros((outputs, blocks, WORDS), dtype=torch.int32, device=values.device)
    for plane in range(per_half):
        for half in range(2):
            words |= fields[:, :, plane, :, half] << (16 * half + bits * plane)
    dtype = torch.float16 if torch.equal(scales.half().float(), scales.float()) else torch.bfloat16
    if not torch.equal(scales.to(dtype).float(), scales.float()) and scales.abs().max() < 6e4:
        dtype = torch.float16  # rounds less
    zero_bits = zeros.to(torch.int16).contiguous().view(dtype)
    groups = torch.stack((scales.to(dtype), zero_bits), dim=-1)
    return PackedWeight(words.transpose(0, 1).contiguous(), groups, inputs, bits)


def unpack_ref(weight: PackedWeight, dtype: torch.dtype) -> torch.Tensor:
    """[out_features, in_features], computed in float32 and rounded to `dtype`"""
    per_half = 16 // weight.bits
    fields = [
        weight.words >> (16 * half + weight.bits * plane) & (2**weight.bits - 1)
        for plane in range(per_half)
        for half in range(2)
    ]
    # [blocks, outputs, words, planes * halves] -> [outputs, blocks, planes, words, halves]
    values = torch.stack(fields, -1).unflatten(-1, (per_half, 2)).permute(1, 0, 3, 2, 4)
    values = values.flatten(1)[:, : weight.in_features].float()
    of_inputs = torch.arange(weight.in_features, device=values.device) // weight.group_size
    scales = weight.groups[..., 0].float()
    zeros = weight.groups[..., 1].view(torch.int16).float()
    out: torch.Tensor = (values - zeros.t()[:, of_inputs]) * scales.t()[:, of_inputs]
    return out.to(dtype)


@triton.jit
def scales_of(groups, SCALE_BFLOAT16: tl.constexpr) -> tl.tensor:
    """float32 scales of groups, whose pairs of 16 bits are read as int32"""
    if SCALE_BFLOAT16:
        return (groups << 16).to(tl.float32, bitcast=True)
    return (groups & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _unpack_kernel(
    words_ptr,
    groups_ptr,
    out_ptr,
    in_features,
    out_features,
    group_size,
    BITS: tl.constexpr,
    SCALE_BFLOAT16: tl.constexpr,
    OUTPUTS: tl.constexpr,
    WORDS: tl.constexpr,
) -> None:
    """Grid (tiles of outputs, blocks of inputs)."""
    PLANES: tl.constexpr = 16 // BITS
    PLANE: tl.constexpr = 2 * WORDS
    MASK: tl.constexpr = 2**BITS - 1
    block = tl.program_id(1)
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    inside = outputs < out_features
    held = tl.where(inside, outputs, 0).to(tl.int64)
    word = tl.arange(0, WORDS)
    words = tl.load(
        words_ptr
        + (block * tl.cast(out_features, tl.int64) + held)[:, None] * WORDS
        + word[None, :]
    )
    for plane in tl.static_range(PLANES):
        base = (block * PLANES + plane) * PLANE
        group = tl.minimum(base, in_features - 1) // group_size
        of_group = tl.load(groups_ptr + group * out_features + held)
        scales = scales_of(of_group, SCALE_BFLOAT16)[:, None]
        less = 8388608.0 + (of_group >> 16).to(tl.float32)[:, None]
        shifted = words >> (BITS * plane)
        low = ((shifted & MASK) | 0x4B000000).to(tl.float32, bitcast=True) - less
        high = (((shifted >> 16) & MASK) | 0x4B000000).to(tl.float32, bitcast=True) - less
        values = tl.join(low * scales, high * scales).reshape(OUTPUTS, PLANE)
        inputs = base + tl.arange(0, PLANE)
        tl.store(
            out_ptr + held[:, None] * in_features + inputs[None, :],
            values.to(out_ptr.dtype.element_ty),
            mask=inside[:, None] & (inputs < in_features)[None, :],
        )


def unpack_triton(weight: PackedWeight, dtype: torch.dtype) -> torch.Tensor:
    """As `unpack_ref`"""
    num_blocks, out_features = weight.words.shape[:2]
    shape = (out_features, weight.in_features)
    out = torch.empty(shape, dtype=dtype, device=weight.words.device)
    _unpack_kernel[(triton.cdiv(out_features, 64), num_blocks)](
        weight.words,
        weight.groups.view(torch.int32),
        out,
        weight.in_features,
        out_features,
        weight.group_size,
        BITS=weight.bits,
        SCALE_BFLOAT16=weight.groups.dtype is torch.bfloat16,
        OUTPUTS=64,
        WORDS=WORDS,
    )
    return out
