"""Rows of one expert with its matrix of 4 or 8 bits, integers or MXFP4: `expert_linear` over packed
weights, which are unpacked in registers.
"""

import torch

from formgate.kernels.experts.gate import PLAIN_GATE, Gate, gated_tile
from formgate.kernels.experts.mxfp4 import (
    BLOCK,
    GROUP,
    Mxfp4Experts,
    e2m1_pairs,
    e8m0_scales,
)
from formgate.kernels.experts.quantized_weights import PackedExperts
from formgate.kernels.experts.sort_by_expert import SortedPairs
from formgate.kernels.jit import tl, triton
from formgate.kernels.quantized.grouped_linear import pair_values
from formgate.kernels.quantized.packed_weight import PLANE, WORDS, scales_of

__all__ = ["packed_expert_linear_triton"]


@triton.jit(do_not_specialize=["num_groups"])
def _packed_expert_kernel(
    x_ptr,
    words_ptr,
    groups_ptr,
    bias_ptr,
    out_ptr,
    pairs_ptr,
    ends_ptr,
    block_experts_ptr,
    block_starts_ptr,
    in_features,
    out_features,
    num_groups,
    GATED: tl.constexpr,
    BIASED: tl.constexpr,
    ALPHA: tl.constexpr,
    LIMIT: tl.constexpr,
    TOP_K: tl.constexpr,
    BITS: tl.constexpr,
    MXFP4: tl.constexpr,
    SCALE_BFLOAT16: tl.constexpr,
    PLANES_PER_GROUP: tl.constexpr,
    BLOCKS_PER_GROUP: tl.constexpr,
    WHOLE_BLOCKS: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    WORDS: tl.constexpr,
    BFLOAT16: tl.constexpr,
    NATIVE: tl.constexpr,
) -> None:
    """Grid (blocks, tiles of outputs), as that of `expert_linear`."""
    PLANES: tl.constexpr = 16 // BITS
    PLANE: tl.constexpr = 2 * WORDS
    MASK: tl.constexpr = 0x000F000F if BITS == 4 else 0x00FF00FF
    TYPE: tl.constexpr = x_ptr.dtype.element_ty
    TILE: tl.constexpr = OUTPUTS // 2 if GATED else OUTPUTS
    expert = tl.load(block_experts_ptr + tl.program_id(0)).to(tl.int64)
    if expert >= 0:
        at = tl.load(block_starts_ptr + tl.program_id(0)) + tl.arange(0, ROWS)
        row_inside = at < tl.load(ends_ptr + expert)
        index = tl.arange(0, OUTPUTS)
        output = tl.program_id(1) * TILE + index % TILE
        matrix_row = tl.where(output < out_features, output, 0)
        if GATED:
            row = tl.load(pairs_ptr + at, mask=row_inside, other=0) // TOP_K
            matrix_row += index // TILE * out_features
            matrix_rows = 2 * out_features
        else:
            row = at
            matrix_rows = out_features
        num_blocks = tl.cdiv(in_features, PLANE * PLANES)
        word_ptr = words_ptr + expert * num_blocks * matrix_rows * WORDS
        word_ptr = word_ptr + matrix_row[:, None] * WORDS + tl.arange(0, WORDS)[None, :]
        group_ptr = groups_ptr + expert * num_groups * matrix_rows + matrix_row
        x_rows = x_ptr + row.to(tl.int64)[None, :] * in_features
        acc = tl.zeros((OUTPUTS, ROWS), tl.float32)
        for block in range(0, num_blocks):
            words = tl.load(word_ptr + block * matrix_rows.to(tl.int64) * WORDS)
            for part in tl.static_range(PLANES // PLANES_PER_GROUP):
                base = block * (PLANE * PLANES) + part * (PLANES_PER_GROUP * PLANE)
                if PLANES_PER_GROUP == PLANES:
                    group = block // BLOCKS_PER_GROUP
                else:
                    # The last block may end in padding, which has no group.
                    group = tl.minimum(block * (PLANES // PLANES_PER_GROUP) + part, num_groups - 1)
                of_group = tl.load(group_ptr + group * matrix_rows)
                scales = e8m0_scales(of_group) if MXFP4 else scales_of(of_group, SCALE_BFLOAT16)
                product = tl.zeros((OUTPUTS, ROWS), tl.float32)
                for within in tl.static_range(PLANES_PER_GROUP):
                    inputs = base + within * PLANE + tl.arange(0, PLANE)
                    inside = row_inside[None, :]
                    if not WHOLE_BLOCKS:
                        inside = inside & (inputs < in_features)[:, None]
                    x = tl.load(x_rows + inputs[:, None], mask=inside, other=0.0)
                    pairs = (words >> (BITS * (part * PLANES_PER_GROUP + within))) & MASK
                    if MXFP4:
                        values = e2m1_pairs(pairs, TYPE, BFLOAT16, NATIVE)
                    else:
                        values = pair_values(pairs, of_group >> 16, BITS, TYPE, BFLOAT16, NATIVE)
                    product = tl.dot(values, x, product, input_precision="ieee")
                acc += product * scales[:, None]
        if BIASED:
            acc += tl.load(bias_ptr + expert * matrix_rows + matrix_row).to(tl.float32)[:, None]
        if GATED:
            acc = gated_tile(acc, TILE, ROWS, ALPHA, LIMIT)
        outputs = tl.program_id(1) * TILE + tl.arange(0, TILE)
        tl.store(
            out_ptr + at.to(tl.int64)[None, :] * out_features + outputs[:, None],
            acc.to(out_ptr.dtype.element_ty),
            mask=row_inside[None, :] & (outputs < out_features)[:, None],
        )


def _layout(weights: PackedExperts | Mxfp4Experts) -> tuple[torch.Tensor, dict[str, int]]:
    """What the kernel reads of each group, and how groups lie in the words."""
    if isinstance(weights, Mxfp4Experts):
        block, group_size, bits = BLOCK, GROUP, 4
        groups, bfloat16 = weights.scales, False
    else:
        one = weights.of(0)
        block, group_size, bits = one.block, one.group_size, weights.bits
        groups, bfloat16 = weights.groups.view(torch.int32), weights.groups.dtype is torch.bfloat16
    return groups, {
        "BITS": bits,
        "SCALE_BFLOAT16": bfloat16,
        "PLANES_PER_GROUP": min(block, group_size) // PLANE,
        "BLOCKS_PER_GROUP": max(block, group_size) // block,
        "WHOLE_BLOCKS": weights.in_features % block == 0,
    }


def packed_expert_linear_triton(
    x: torch.Tensor,
    weights: PackedExperts | Mxfp4Experts,
    order: SortedPairs,
    *,
    top_k: int,
    gated: bool,
    bias: torch.Tensor | None = None,
    gate: Gate = PLAIN_GATE,
) -> torch.Tensor:
    """As `expert_linear_ref`, for float16 or bfloat16; rows of no expert are not written."""
    num_experts, matrix_rows, in_features = weights.shape
    num_pairs = order.pairs.numel()
    assert x.is_contiguous()
    assert x.dtype in (torch.float16, torch.bfloat16)
    assert x.shape == (num_pairs // top_k if gated else num_pairs, in_features)
    assert order.ends.shape == (num_experts,)
    assert bias is None or (bias.shape == (num_experts, matrix_rows) and bias.is_contiguous())
    out_features = matrix_rows // (2 if gated else 1)
    out = torch.empty((num_pairs, out_features), dtype=x.dtype, device=x.device)
    if not num_pairs:
        return out
    groups, layout = _layout(weights)
    outputs, warps = (64, 4) if order.block <= 32 else (128, 8)
    tile = outputs // (2 if gated else 1)
    _packed_expert_kernel[(order.block_experts.numel(), triton.cdiv(out_features, tile))](
        x,
        weights.words,
        groups,
        bias,
        out,
        order.pairs,
        order.ends,
        order.block_experts,
        order.block_starts,
        in_features,
        out_features,
        groups.shape[1],
        GATED=gated,
        BIASED=bias is not None,
        ALPHA=gate.alpha,
        LIMIT=gate.limit,
        TOP_K=top_k,
        MXFP4=isinstance(weights, Mxfp4Experts),
        **layout,
        ROWS=order.block,
        OUTPUTS=outputs,
        WORDS=WORDS,
        BFLOAT16=x.dtype is torch.bfloat16,
        NATIVE=x.is_cuda,
        num_warps=warps,
        num_stages=4,
    )
    return out
