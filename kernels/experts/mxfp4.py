"""Experts' matrices in MXFP4 (OCP Microscaling Formats 1.0, section 5): values e2m1 of 4 bits (0,
0.5, 1, 1.5, 2, 3, 4, 6, and a sign) in groups of 32 inputs, each with a power of 2 as its scale, in
8 bits (e8m0, bias 127).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from formgate.kernels.jit import tl, triton
from formgate.kernels.quantized.packed_weight import PLANE, WORDS

__all__ = [
    "BLOCK",
    "GROUP",
    "Mxfp4Experts",
    "dequantize_mxfp4",
    "e2m1_pairs",
    "e8m0_scales",
    "pack_mxfp4",
    "unpack_mxfp4_ref",
    "unpack_mxfp4_triton",
]

GROUP = 32  # inputs that share a scale
PLANES = 4  # groups in a word
BLOCK = PLANES * GROUP
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

assert PLANE == GROUP


@dataclass(frozen=True, slots=True)
class Mxfp4Experts:
    """`words` int32 [num_experts, blocks, out_features, 16] are laid out as those of
    `PackedWeight`, with e2m1 codes as values; `scales` uint8 [num_experts, groups, out_features].
    """

    words: torch.Tensor
    scales: torch.Tensor

    @property
    def in_features(self) -> int:
        return self.scales.shape[1] * GROUP

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.words.shape[0], self.words.shape[2], self.in_features))

    def dense(self, expert: int | slice, dtype: torch.dtype) -> torch.Tensor:
        unpack = unpack_mxfp4_triton if self.words.is_cuda else unpack_mxfp4_ref
        chosen = slice(expert, expert + 1) if isinstance(expert, int) else expert
        out = unpack(Mxfp4Experts(self.words[chosen], self.scales[chosen]), dtype)
        return out[0] if isinstance(expert, int) else out


def dequantize_mxfp4(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """blocks uint8 [out_features, groups, 16], scales uint8 [out_features, groups], as checkpoints
    hold them -> float32 [out_features, groups * 32]. The low half of a byte comes first.
    """
    table = torch.tensor(MAGNITUDES, device=blocks.device)
    table = torch.cat([table, -table])
    codes = torch.stack([blocks & 15, blocks >> 4], dim=-1).flatten(-2)
    return torch.ldexp(table[codes.int()], scales.int().unsqueeze(-1) - 127).flatten(-2)


def pack_mxfp4(blocks: torch.Tensor, scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One expert's tensors, as `dequantize_mxfp4` takes them -> its words and scales, as
    `Mxfp4Experts` holds them.
    """
    outputs, groups, _ = blocks.shape
    padded = F.pad(blocks, (0, 0, 0, -groups % PLANES)).view(outputs, -1, PLANES, WORDS).int()
    words = torch.zeros_like(padded[:, :, 0])
    for plane in range(PLANES):
        pairs = padded[:, :, plane]
        words |= (pairs & 15) << (4 * plane)
        words |= (pairs >> 4) << (16 + 4 * plane)
    return words.transpose(0, 1).contiguous(), scales.t().contiguous()


def unpack_mxfp4_ref(weights: Mxfp4Experts, dtype: torch.dtype) -> torch.Tensor:
    """[num_experts, out_features, in_features]"""
    planes = [
        (weights.words >> (4 * plane) & 15) | (weights.words >> (12 + 4 * plane) & 0xF0)
        for plane in range(PLANES)
    ]
    # [experts, blocks, outputs, planes, words] -> [experts, outputs, groups, words]
    blocks = torch.stack(planes, dim=3).transpose(1, 2).flatten(2, 3)
    groups = weights.scales.shape[1]
    scales = weights.scales.transpose(1, 2)
    experts = zip(blocks[:, :, :groups].to(torch.uint8), scales, strict=True)
    return torch.stack([dequantize_mxfp4(*expert).to(dtype) for expert in experts])


@triton.jit
def e8m0_scales(codes) -> tl.tensor:
    """float32 2 ** (code - 127); the lowest code's is a subnormal number"""
    bits = codes.to(tl.int32)
    return tl.where(bits == 0, 0x00400000, bits << 23).to(tl.float32, bitcast=True)


@triton.jit
def _e2m1_values(codes) -> tl.tensor:
    """float32; codes int32"""
    magnitude = codes & 7
    # From 2 on, the two bits of the exponent and that of the fraction are those of a float32.
    wide = ((magnitude << 22) + (126 << 23)).to(tl.float32, bitcast=True)
    wide = tl.where(magnitude < 2, magnitude.to(tl.float32) * 0.5, wide)
    return tl.where(codes >= 8, -wide, wide)


@triton.jit
def e2m1_pairs(
    pairs, TYPE: tl.constexpr, BFLOAT16: tl.constexpr, NATIVE: tl.constexpr
) -> tl.tensor:
    """pairs int32 [OUTPUTS, WORDS], two codes in the low bits of each half -> TYPE
    [OUTPUTS, 2 * WORDS], exact
    """
    if NATIVE:
        # Three bits of the exponent and the fraction are those of a float whose exponent is too
        # small by the difference of the biases; a multiplication mends it, subnormals included.
        bits = (pairs & 0x00080008) << 12
        if BFLOAT16:
            values = tl.inline_asm_elementwise(
                "{ .reg .b32 up, no; mov.b32 up, 0x7E807E80; mov.b32 no, 0x80008000; "
                "fma.rn.bf16x2 $0, $1, up, no; }",
                "=r,r",
                [bits | ((pairs & 0x00070007) << 6)],
                dtype=tl.int32,
                is_pure=True,
                pack=1,
            )
        else:
            values = tl.inline_asm_elementwise(
                "{ .reg .b32 up, no; mov.b32 up, 0x74007400; mov.b32 no, 0x80008000; "
                "fma.rn.f16x2 $0, $1, up, no; }",
                "=r,r",
                [bits | ((pairs & 0x00070007) << 9)],
                dtype=tl.int32,
                is_pure=True,
                pack=1,
            )
        low = (values & 0xFFFF).to(tl.int16).to(TYPE, bitcast=True)
        high = (values >> 16).to(tl.int16).to(TYPE, bitcast=True)
    else:
        low = _e2m1_values(pairs & 15).to(TYPE)
        high = _e2m1_values((pairs >> 16) & 15).to(TYPE)
    return tl.join(low, high).reshape(pairs.shape[0], 2 * pairs.shape[1])


@triton.jit
def _unpack_mxfp4_kernel(
    words_ptr,
    scales_ptr,
    out_ptr,
    num_groups,
    out_features,
    OUTPUTS: tl.constexpr,
    PLANES: tl.constexpr,
    WORDS: tl.constexpr,
) -> None:
    """Grid (tiles of outputs, blocks of inputs, experts)."""
    PLANE: tl.constexpr = 2 * WORDS
    block = tl.program_id(1)
    expert = tl.program_id(2).to(tl.int64)
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    inside = outputs < out_features
    held = tl.where(inside, outputs, 0)
    row = (expert * tl.num_programs(1) + block) * out_features + held
    words = tl.load(words_ptr + row[:, None] * WORDS + tl.arange(0, WORDS)[None, :])
    out_rows = (expert * out_features + held) * (num_groups * PLANE)
    for plane in tl.static_range(PLANES):
        group = block * PLANES + plane
        if group < num_groups:
            scales = tl.load(scales_ptr + (expert * num_groups + group) * out_features + held)
            scales = e8m0_scales(scales)[:, None]
            shifted = words >> (4 * plane)
            low = _e2m1_values(shifted & 15) * scales
            high = _e2m1_values((shifted >> 16) & 15) * scales
            values = tl.join(low, high).reshape(OUTPUTS, PLANE)
            inputs = group * PLANE + tl.arange(0, PLANE)
            tl.store(
                out_ptr + out_rows[:, None] + inputs[None, :],
                values.to(out_ptr.dtype.element_ty),
                mask=inside[:, None] & (inputs >= 0)[None, :],
            )


def unpack_mxfp4_triton(weights: Mxfp4Experts, dtype: torch.dtype) -> torch.Tensor:
    """As `unpack_mxfp4_ref`"""
    num_experts, num_blocks, out_features, _ = weights.words.shape
    out = torch.empty(weights.shape, dtype=dtype, device=weights.words.device)
    assert weights.words.is_contiguous()
    assert weights.scales.is_contiguous()
    _unpack_mxfp4_kernel[(triton.cdiv(out_features, 64), num_blocks, num_experts)](
        weights.words,
        weights.scales,
        out,
        weights.scales.shape[1],
        out_features,
        OUTPUTS=64,
        PLANES=PLANES,
        WORDS=WORDS,
    )
    return out
