"""The products of a mixture-of-experts layer: rows of one expert with its matrix. A program reads a
tile of one expert's matrix for a block of its rows, so that of few rows only the chosen experts'
matrices are read, each once. Long prompts go to torch's grouped product. Measurements are in
docs/performance.md.
"""

import torch
import torch.nn.functional as F

from formgate.kernels.experts.finish_rows import finish_rows
from formgate.kernels.experts.gate import PLAIN_GATE, Gate, gated_ref, gated_tile
from formgate.kernels.experts.packed_expert_linear import packed_expert_linear_triton
from formgate.kernels.experts.quantized_weights import (
    ExpertWeights,
    Mxfp4Experts,
    PackedExperts,
    ScaledExperts,
    dense_weights,
    matrix_of,
)
from formgate.kernels.experts.sort_by_expert import MAX_PAIRS, SortedPairs
from formgate.kernels.jit import tl, triton
from formgate.kernels.silu_and_mul import silu_and_mul

__all__ = [
    "block_rows",
    "expert_linear",
    "expert_linear_grouped",
    "expert_linear_ref",
    "expert_linear_triton",
]

SMALL_BLOCK, LARGE_BLOCK = 16, 128
# Average rows of an expert are spread; a block twice as large seldom reads a matrix twice.
SPREAD = 2


def block_rows(num_pairs: int, num_experts: int) -> int:
    """Rows of a block that suit so many pairs: a power of 2 from 16 to 128."""
    rows = min(max(SPREAD * num_pairs // num_experts, SMALL_BLOCK), LARGE_BLOCK)
    return 1 << (rows - 1).bit_length()


def expert_linear_ref(
    x: torch.Tensor,
    weights: ExpertWeights,
    order: SortedPairs,
    *,
    top_k: int,
    gated: bool,
    bias: torch.Tensor | None = None,
    gate: Gate = PLAIN_GATE,
) -> torch.Tensor:
    """Row i of the result belongs to position i of `order`.

    With `gated`, x [n, in] holds tokens, weights [num_experts, 2 * out, in] gates and then ups, and
    the result is what `gate` makes of them [n * top_k, out]. Otherwise x [n * top_k, in] is by
    position and weights [num_experts, out, in]. `bias` [num_experts, weights.shape[1]] is added to
    the products, before the gate. Rows of no expert are 0.
    """
    pairs = order.pairs.long()
    rows = x[pairs // top_k] if gated else x
    out = x.new_zeros(len(pairs), weights.shape[1] // (2 if gated else 1))
    start = 0
    for expert, end in enumerate(order.ends.tolist()):
        if end > start:
            of_expert = None if bias is None else bias[expert].to(x.dtype)
            product = F.linear(rows[start:end], matrix_of(weights, expert, x.dtype), of_expert)
            if gated:
                product = gated_ref(product, gate).to(x.dtype)
            out[start:end] = product
        start = end
    return out


@triton.jit
def _expert_linear_kernel(
    x_ptr,
    weight_ptr,
    scales_ptr,
    bias_ptr,
    out_ptr,
    pairs_ptr,
    ends_ptr,
    block_experts_ptr,
    block_starts_ptr,
    in_features,
    out_features,
    num_scales,
    GATED: tl.constexpr,
    SCALED: tl.constexpr,
    COLUMNS: tl.constexpr,
    BIASED: tl.constexpr,
    ALPHA: tl.constexpr,
    LIMIT: tl.constexpr,
    TOP_K: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
) -> None:
    """Grid (blocks, tiles of outputs). The weight is the left operand, because its rows fill a
    matrix instruction and the few rows of x do not. A gated tile is half gates and half ups.
    """
    TILE: tl.constexpr = OUTPUTS // 2 if GATED else OUTPUTS
    block = tl.program_id(0)
    expert = tl.load(block_experts_ptr + block)
    if expert >= 0:
        at = tl.load(block_starts_ptr + block) + tl.arange(0, ROWS)
        row_inside = at < tl.load(ends_ptr + expert)
        if GATED:
            row = tl.load(pairs_ptr + at, mask=row_inside, other=0) // TOP_K
            index = tl.arange(0, OUTPUTS)
            output = tl.program_id(1) * TILE + index % TILE
            matrix_row = tl.where(output < out_features, output, 0) + index // TILE * out_features
            matrix_rows = 2 * out_features
        else:
            row = at
            output = tl.program_id(1) * TILE + tl.arange(0, OUTPUTS)
            matrix_row = tl.where(output < out_features, output, 0)
            matrix_rows = out_features
        matrix_row = expert.to(tl.int64) * matrix_rows + matrix_row
        weight_rows = weight_ptr + matrix_row * in_features
        if SCALED:
            scale_rows = scales_ptr + matrix_row * num_scales
        x_rows = x_ptr + row.to(tl.int64) * in_features
        acc = tl.zeros((OUTPUTS, ROWS), tl.float32)
        for base in range(0, in_features, INPUTS):
            inputs = base + tl.arange(0, INPUTS)
            inside = inputs < in_features
            weight = tl.load(
                weight_rows[:, None] + inputs[None, :], mask=inside[None, :], other=0.0
            )
            x = tl.load(
                x_rows[None, :] + inputs[:, None],
                mask=row_inside[None, :] & inside[:, None],
                other=0.0,
            )
            if SCALED:
                if weight.dtype == tl.int8:
                    weight = weight.to(tl.float32)
                weight = weight.to(x.dtype)
            if COLUMNS:
                product = tl.dot(weight, x, input_precision="ieee")
                acc += product * tl.load(scale_rows + base // COLUMNS)[:, None]
            else:
                acc = tl.dot(weight, x, acc, input_precision="ieee")
        if SCALED and not COLUMNS:
            acc *= tl.load(scale_rows)[:, None]
        if BIASED:
            acc += tl.load(bias_ptr + matrix_row).to(tl.float32)[:, None]
        if GATED:
            acc = gated_tile(acc, TILE, ROWS, ALPHA, LIMIT)
        outputs = tl.program_id(1) * TILE + tl.arange(0, TILE)
        tl.store(
            out_ptr + at.to(tl.int64)[None, :] * out_features + outputs[:, None],
            acc.to(out_ptr.dtype.element_ty),
            mask=row_inside[None, :] & (outputs < out_features)[:, None],
        )


def _tiles(rows: int) -> dict[str, int]:
    """Tile sizes and launch options for blocks of so many rows."""
    if rows <= 32:
        return {"OUTPUTS": 64, "INPUTS": 128, "num_warps": 4, "num_stages": 4}
    if rows <= 64:
        return {"OUTPUTS": 128, "INPUTS": 64, "num_warps": 4, "num_stages": 4}
    return {"OUTPUTS": 128, "INPUTS": 64, "num_warps": 8, "num_stages": 3}


def expert_linear_triton(
    x: torch.Tensor,
    weights: ExpertWeights,
    order: SortedPairs,
    *,
    top_k: int,
    gated: bool,
    bias: torch.Tensor | None = None,
    gate: Gate = PLAIN_GATE,
) -> torch.Tensor:
    """As `expert_linear_ref`; rows of no expert are not written."""
    if isinstance(weights, Mxfp4Experts) and x.dtype is torch.float32:
        weights = dense_weights(weights, x.dtype)
    if isinstance(weights, PackedExperts | Mxfp4Experts):
        return packed_expert_linear_triton(
            x, weights, order, top_k=top_k, gated=gated, bias=bias, gate=gate
        )
    num_experts, matrix_rows, in_features = weights.shape
    num_pairs = order.pairs.numel()
    assert x.is_contiguous()
    scaled = isinstance(weights, ScaledExperts)
    matrices = weights.values if isinstance(weights, ScaledExperts) else weights
    scales = weights.scales if isinstance(weights, ScaledExperts) else None
    num_scales = 0 if scales is None else scales.shape[2]
    assert matrices.is_contiguous()
    assert scales is None or scales.is_contiguous()
    assert x.shape == (num_pairs // top_k if gated else num_pairs, in_features)
    assert order.ends.shape == (num_experts,)
    assert bias is None or (bias.shape == (num_experts, matrix_rows) and bias.is_contiguous())
    out_features = matrix_rows // (2 if gated else 1)
    out = torch.empty((num_pairs, out_features), dtype=x.dtype, device=x.device)
    options = _tiles(order.block)
    columns = 0
    if isinstance(weights, ScaledExperts) and num_scales > 1:
        columns = weights.columns
        options["INPUTS"] = min(options["INPUTS"], columns)
    tile = options["OUTPUTS"] // (2 if gated else 1)
    grid = (order.block_experts.numel(), triton.cdiv(out_features, tile))
    if num_pairs:
        _expert_linear_kernel[grid](
            x,
            matrices,
            scales,
            bias,
            out,
            order.pairs,
            order.ends,
            order.block_experts,
            order.block_starts,
            in_features,
            out_features,
            num_scales,
            GATED=gated,
            SCALED=scaled,
            COLUMNS=columns,
            BIASED=bias is not None,
            ALPHA=gate.alpha,
            LIMIT=gate.limit,
            TOP_K=top_k,
            ROWS=order.block,
            **options,
        )
    return out


def expert_linear_grouped(
    x: torch.Tensor,
    weights: ExpertWeights,
    order: SortedPairs,
    *,
    top_k: int,
    gated: bool,
    bias: torch.Tensor | None = None,
    gate: Gate = PLAIN_GATE,
) -> torch.Tensor:
    """As `expert_linear_ref`, by torch's grouped product; rows of no expert are garbage."""
    rows = x[(order.pairs // top_k).long()] if gated else x
    matrices = dense_weights(weights, x.dtype)
    product = F.grouped_mm(rows, matrices.transpose(1, 2), offs=order.ends)
    if bias is None and gate == PLAIN_GATE:
        return silu_and_mul(product) if gated else product
    return finish_rows(product, order.ends, bias, gated=gated, gate=gate)


def _has_grouped(x: torch.Tensor) -> bool:
    """Before Hopper, torch multiplies one expert after another, and waits for the device."""
    return torch.cuda.get_device_capability(x.device) >= (9, 0)


def expert_linear(
    x: torch.Tensor,
    weights: ExpertWeights,
    order: SortedPairs,
    *,
    top_k: int,
    gated: bool,
    bias: torch.Tensor | None = None,
    gate: Gate = PLAIN_GATE,
) -> torch.Tensor:
    """On CUDA the Triton kernel, or the grouped product for many rows; `expert_linear_ref`
    elsewhere.
    """
    product = expert_linear_ref
    if x.is_cuda:
        many = order.pairs.numel() > MAX_PAIRS and x.dtype is torch.bfloat16
        grouped = many and _has_grouped(x)
        product = expert_linear_grouped if grouped else expert_linear_triton
    return product(x, weights, order, top_k=top_k, gated=gated, bias=bias, gate=gate)
