"""A linear layer over 4- or 8-bit weights with a scale and a zero point for each group of inputs.
For few rows the weights are read once, packed, and unpacked in registers; more rows multiply a
dequantized copy, which costs less than the product. `benchmarks/quantized_linear.py` times it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from formgate.kernels.jit import tl, triton
from formgate.kernels.quantized.packed_weight import (
    PLANE,
    WORDS,
    PackedWeight,
    scales_of,
    unpack_ref,
    unpack_triton,
)

__all__ = [
    "MAX_ROWS",
    "Tiles",
    "grouped_linear",
    "grouped_linear_ref",
    "grouped_linear_triton",
    "new_locks",
    "pair_values",
    "tiles_of",
]

MAX_ROWS = 64  # more rows are multiplied by a dequantized copy
TYPES = (torch.bfloat16, torch.float16)
MIN_OUTPUTS = 32  # of a tile
PROGRAMS_PER_MULTIPROCESSOR = 4
MIN_BLOCKS = 4  # of a split: a shorter loop does not fill its pipeline
MULTIPROCESSORS = 132  # of an H100 or H200; on other GPUs the tiles are only less even


def grouped_linear_ref(
    x: torch.Tensor, weight: PackedWeight, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """x [n, in_features] -> [n, out_features]"""
    return F.linear(x, unpack_ref(weight, x.dtype), bias)


@triton.jit
def pair_values(
    pairs,
    zeros,
    BITS: tl.constexpr,
    TYPE: tl.constexpr,
    BFLOAT16: tl.constexpr,
    NATIVE: tl.constexpr,
) -> tl.tensor:
    """pairs int32 [OUTPUTS, WORDS], two values in the low bits of each half; zeros int32 [OUTPUTS]
    -> values minus zeros, TYPE [OUTPUTS, 2 * WORDS], exact
    """
    if NATIVE and (BITS == 4 or not BFLOAT16):
        # Under the right exponent a value's bits are the float 128 + value (float16: 1024 + value).
        # A fused multiply-add subtracts 128 + zero from both floats of a word.
        if BFLOAT16:
            pairs = pairs | 0x43004300
            less = zeros | 0xC300
            differences = tl.inline_asm_elementwise(
                "{ .reg .b32 one; mov.b32 one, 0x3F803F80; fma.rn.bf16x2 $0, $1, one, $2; }",
                "=r,r,r",
                [pairs, (less | (less << 16))[:, None]],
                dtype=tl.int32,
                is_pure=True,
                pack=1,
            )
        else:
            pairs = pairs | 0x64006400
            less = zeros | 0xE400
            differences = tl.inline_asm_elementwise(
                "{ .reg .b32 one; mov.b32 one, 0x3C003C00; fma.rn.f16x2 $0, $1, one, $2; }",
                "=r,r,r",
                [pairs, (less | (less << 16))[:, None]],
                dtype=tl.int32,
                is_pure=True,
                pack=1,
            )
        low = (differences & 0xFFFF).to(tl.int16).to(TYPE, bitcast=True)
        high = (differences >> 16).to(tl.int16).to(TYPE, bitcast=True)
    else:
        less = 8388608.0 + zeros[:, None].to(tl.float32)
        low = ((pairs & 0xFFFF) | 0x4B000000).to(tl.float32, bitcast=True) - less
        high = (((pairs >> 16) & 0xFFFF) | 0x4B000000).to(tl.float32, bitcast=True) - less
        low = low.to(TYPE)
        high = high.to(TYPE)
    return tl.join(low, high).reshape(pairs.shape[0], 2 * pairs.shape[1])


# One variant for every number of rows up to ROWS, so that none is compiled while serving, and for
# matrices of all usual sizes.
@triton.jit(do_not_specialize=["num_rows", "num_groups", "num_splits", "blocks_per_split"])
def _grouped_kernel(
    x_ptr,
    words_ptr,
    groups_ptr,
    bias_ptr,
    out_ptr,
    partial_ptr,
    locks_ptr,
    num_rows,
    in_features,
    out_features,
    num_groups,
    num_splits,
    blocks_per_split,
    BITS: tl.constexpr,
    SCALE_BFLOAT16: tl.constexpr,
    PLANES_PER_GROUP: tl.constexpr,
    BLOCKS_PER_GROUP: tl.constexpr,
    WHOLE_BLOCKS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    WORDS: tl.constexpr,
    BFLOAT16: tl.constexpr,
    NATIVE: tl.constexpr,
) -> None:
    """Grid (tiles of outputs, num_splits). The weight is the left operand, because its rows fill a
    matrix instruction and the few rows of x do not. The splits of a tile sum different inputs; the
    last to arrive adds up all, in order, so that the result does not depend on the order.
    """
    PLANES: tl.constexpr = 16 // BITS
    PLANE: tl.constexpr = 2 * WORDS
    MASK: tl.constexpr = 0x000F000F if BITS == 4 else 0x00FF00FF
    TYPE: tl.constexpr = x_ptr.dtype.element_ty
    tile, split = tl.program_id(0), tl.program_id(1)
    outputs = tile * OUTPUTS + tl.arange(0, OUTPUTS)
    outside = outputs >= out_features
    held = tl.where(outside, 0, outputs)
    rows = tl.arange(0, ROWS)
    row_inside = rows < num_rows
    num_blocks = tl.cdiv(in_features, PLANE * PLANES)
    first = split * blocks_per_split
    last = tl.minimum(first + blocks_per_split, num_blocks)
    word_ptr = words_ptr + held[:, None] * WORDS + tl.arange(0, WORDS)[None, :]
    row_ptr = x_ptr + rows[None, :] * in_features
    block_stride = tl.cast(out_features, tl.int64) * WORDS
    acc = tl.zeros((OUTPUTS, ROWS), tl.float32)
    # Scales are read a block ahead: the pipeline prefetches only operands of products.
    ahead = tl.load(groups_ptr + first // BLOCKS_PER_GROUP * out_features + held)
    for block in range(first, last):
        words = tl.load(word_ptr + block * block_stride)
        for part in tl.static_range(PLANES // PLANES_PER_GROUP):
            base = block * (PLANE * PLANES) + part * (PLANES_PER_GROUP * PLANE)
            if PLANES_PER_GROUP == PLANES:
                group = block // BLOCKS_PER_GROUP
                of_group = tl.load(groups_ptr + group * out_features + held)
                scales = scales_of(ahead, SCALE_BFLOAT16)
                following = tl.minimum(block + 1, last - 1) // BLOCKS_PER_GROUP
                ahead = tl.load(groups_ptr + following * out_features + held)
            else:
                # The last block may end in padding, which has no group.
                group = tl.minimum(block * (PLANES // PLANES_PER_GROUP) + part, num_groups - 1)
                of_group = tl.load(groups_ptr + group * out_features + held)
                scales = scales_of(of_group, SCALE_BFLOAT16)
            product = tl.zeros((OUTPUTS, ROWS), tl.float32)
            for within in tl.static_range(PLANES_PER_GROUP):
                inputs = base + within * PLANE + tl.arange(0, PLANE)
                inside = row_inside[None, :]
                if not WHOLE_BLOCKS:
                    inside = inside & (inputs < in_features)[:, None]
                x = tl.load(row_ptr + inputs[:, None], mask=inside, other=0.0)
                pairs = (words >> (BITS * (part * PLANES_PER_GROUP + within))) & MASK
                values = pair_values(pairs, of_group >> 16, BITS, TYPE, BFLOAT16, NATIVE)
                product = tl.dot(values, x, product, input_precision="ieee")
            acc += product * scales[:, None]
    inside = row_inside[None, :] & ~outside[:, None]
    is_last = True
    if IS_SPLIT:
        # [splits, rows, outputs]
        own = partial_ptr + rows[None, :] * out_features + outputs[:, None]
        stride = num_rows * out_features
        tl.store(own + split * stride, acc, mask=inside)
        tl.debug_barrier()  # all threads' sums are stored before the split says so
        arrived = tl.atomic_add(locks_ptr + tile, 1, sem="acq_rel", scope="gpu")
        is_last = arrived == num_splits - 1
        if is_last:
            tl.store(locks_ptr + tile, 0)  # for the next launch
            acc = tl.zeros((OUTPUTS, ROWS), tl.float32)
            for other in range(num_splits):
                acc += tl.load(own + other * stride, mask=inside, other=0.0, cache_modifier=".cg")
    if is_last:
        if HAS_BIAS:
            acc += tl.load(bias_ptr + outputs, mask=~outside, other=0.0).to(tl.float32)[:, None]
        out = out_ptr + rows[None, :] * out_features + outputs[:, None]
        tl.store(out, acc.to(out_ptr.dtype.element_ty), mask=inside)


@dataclass(frozen=True, slots=True)
class Tiles:
    """A launch's constants: the rows and outputs of a program, and the programs that share the
    inputs of a tile.
    """

    rows: int
    outputs: int
    splits: int
    num_warps: int = 4
    num_stages: int = 4


def tiles_of(num_rows: int, out_features: int, num_blocks: int) -> Tiles:
    """Chosen by shape. Reading is fast if each multiprocessor runs several programs, and a program
    has enough blocks of inputs to fill its pipeline.
    """
    rows = next(size for size in (8, 16, 32, MAX_ROWS) if num_rows <= size)
    # x is read again by each tile, so that more rows want wider tiles.
    outputs, warps = (64, 4) if rows <= 16 else (128, 8)
    wanted = PROGRAMS_PER_MULTIPROCESSOR * MULTIPROCESSORS * 64 // outputs
    splits = max(1, min(wanted // triton.cdiv(out_features, outputs), num_blocks // MIN_BLOCKS))
    splits = triton.cdiv(num_blocks, triton.cdiv(num_blocks, splits))  # none is empty
    return Tiles(rows, outputs, splits, num_warps=warps)


def new_locks(weight: PackedWeight) -> torch.Tensor:
    """Counters of arrived splits, 0 before and after each launch. One launch at a time may use
    them.
    """
    tiles = -(-weight.out_features // MIN_OUTPUTS)
    return torch.zeros(tiles, dtype=torch.int32, device=weight.words.device)


def grouped_linear_triton(
    x: torch.Tensor,
    weight: PackedWeight,
    bias: torch.Tensor | None = None,
    *,
    locks: torch.Tensor,
    tiles: Tiles | None = None,
) -> torch.Tensor:
    """As `grouped_linear_ref`, for at most MAX_ROWS rows of float16 or bfloat16. x must be
    contiguous. `locks`: of `new_locks`.
    """
    n, in_features = x.shape
    num_blocks, out_features = weight.words.shape[:2]
    assert n <= MAX_ROWS
    assert x.dtype in TYPES
    assert in_features == weight.in_features
    assert x.is_contiguous()
    out = torch.empty((n, out_features), dtype=x.dtype, device=x.device)
    if not n:
        return out
    tiles = tiles or tiles_of(n, out_features, num_blocks)
    partial = out
    if tiles.splits > 1:
        shape = (tiles.splits, n, out_features)
        partial = torch.empty(shape, dtype=torch.float32, device=x.device)
    block, group = weight.block, weight.group_size
    _grouped_kernel[(triton.cdiv(out_features, tiles.outputs), tiles.splits)](
        x,
        weight.words,
        weight.groups.view(torch.int32),
        out if bias is None else bias,
        out,
        partial,
        locks,
        n,
        in_features,
        out_features,
        weight.groups.shape[0],
        tiles.splits,
        triton.cdiv(num_blocks, tiles.splits),
        BITS=weight.bits,
        SCALE_BFLOAT16=weight.groups.dtype is torch.bfloat16,
        PLANES_PER_GROUP=min(block, group) // PLANE,
        BLOCKS_PER_GROUP=max(block, group) // block,
        WHOLE_BLOCKS=in_features % block == 0,
        HAS_BIAS=bias is not None,
        IS_SPLIT=tiles.splits > 1,
        ROWS=tiles.rows,
        OUTPUTS=tiles.outputs,
        WORDS=WORDS,
        BFLOAT16=x.dtype is torch.bfloat16,
        NATIVE=x.is_cuda,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )
    return out


def grouped_linear(
    x: torch.Tensor,
    weight: PackedWeight,
    bias: torch.Tensor | None = None,
    *,
    locks: torch.Tensor,
) -> torch.Tensor:
    """The Triton kernel for few rows in half precision on CUDA; a product with the dequantized
    weight otherwise.
    """
    if not x.is_cuda:
        return grouped_linear_ref(x, weight, bias)
    if x.shape[0] <= MAX_ROWS and x.dtype in TYPES:
        return grouped_linear_triton(x.contiguous(), weight, bias, locks=locks)
    return F.linear(x, unpack_triton(weight, x.dtype), bias)
