"""Low-rank adapters (LoRA, https://arxiv.org/abs/2106.09685) of the rows of a batch, added to the
outputs of a linear layer: `out[t] += B[slot] @ (A[slot] @ x[t])`. Each row may have another adapter
or none. Two launches serve all rows and all stacked outputs of a layer: shrink computes `A @ x`,
expand multiplies with B and adds.

Rows come as tiles of tokens with the same adapter, in the order of their slots, so that a tile is
one dense product. A row without an adapter is in no tile, and no program touches it.
"""

import torch

from formgate.kernels.jit import tl, triton

__all__ = ["RANKS", "TILE", "add_lora", "add_lora_ref", "add_lora_triton"]

RANKS = 16  # the least that a matrix instruction takes; ranks are stored as multiples of it
TILE = 3  # numbers of a tile: slot (-1: unused), first place in `order`, tokens
OUTPUTS = 128
FEW_ROWS = 64  # up to here, a single program per block of A would leave most of a GPU idle
SPLITS = 8  # parts of a row of A then
LEAST_INPUTS = 256  # of a part


def add_lora_ref(
    out: torch.Tensor,
    x: torch.Tensor,
    bank: torch.Tensor,
    table: torch.Tensor,
    blocks: torch.Tensor,
    order: torch.Tensor,
    tiles: torch.Tensor,
    *,
    max_rank: int,
    tile_rows: int,
) -> None:
    """Adds to out [n, out_features] in place. x [n, in_features] of the same dtype.

    bank [slots, size], of the same dtype: the matrices of an adapter in each row. table int64
    [slots, slices, 3]: for each slice of the stacked outputs (rank, offset of A [rank,
    in_features], offset of B [outputs, rank]). Ranks are multiples of RANKS up to `max_rank`; 0:
    the adapter leaves the slice as it is. blocks int32 [m, 3]: (slice, first output in the slice,
    its column in `out`) for every OUTPUTS outputs of each slice; the last block of a slice ends
    where the next one starts.

    order int32 [n]: tokens by slot. tiles int32 [t, TILE], of at most `tile_rows` tokens each.
    """
    starts = [column for slice_, first, column in blocks.tolist() if first == 0]
    ends = [*starts[1:], out.shape[1]]
    in_features = x.shape[1]
    for slot, first, count in tiles.tolist():
        if slot < 0:
            continue
        tokens = order[first : first + count].long()
        rows = x.index_select(0, tokens)
        for (rank, a, b), start, end in zip(table[slot].tolist(), starts, ends, strict=True):
            if not rank:
                continue
            shrink = bank[slot, a : a + rank * in_features].view(rank, in_features)
            expand = bank[slot, b : b + (end - start) * rank].view(end - start, rank)
            added = rows @ shrink.t() @ expand.t()
            out[:, start:end].index_add_(0, tokens, added)


# One variant for every number of rows, so that none is compiled while serving.
@triton.jit(do_not_specialize=["num_rows"])
def _shrink_kernel(
    x_ptr,
    bank_ptr,
    table_ptr,
    order_ptr,
    tiles_ptr,
    shrunk_ptr,
    num_rows,
    in_features,
    x_stride,
    bank_stride,
    table_stride,
    SLICES: tl.constexpr,
    BLOCKS: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    INPUTS: tl.constexpr,
) -> None:
    """Grid (slices * blocks of ranks * splits, tiles). `shrunk` [splits, n, slices * max_rank]
    holds the tokens in the order of `order`; each split sums over a part of the inputs.
    """
    tile_ptr = tiles_ptr + tl.program_id(1) * 3
    slot = tl.load(tile_ptr).to(tl.int64)
    if slot < 0:
        return
    split = tl.program_id(0) % SPLITS
    block = tl.program_id(0) // SPLITS  # of all slices
    entry_ptr = table_ptr + slot * table_stride + block // BLOCKS * 3
    first_rank = block % BLOCKS * RANKS
    if first_rank >= tl.load(entry_ptr):
        return
    first = tl.load(tile_ptr + 1)
    rows = tl.arange(0, ROWS)
    row_inside = rows < tl.load(tile_ptr + 2)
    tokens = tl.load(order_ptr + first + rows, mask=row_inside, other=0).to(tl.int64)
    ranks = tl.arange(0, RANKS)
    # Matrices start at multiples of RANKS elements.
    a_offset = tl.multiple_of(slot * bank_stride + tl.load(entry_ptr + 1), RANKS)
    a_ptr = bank_ptr + a_offset + (first_rank + ranks).to(tl.int64) * in_features
    x_row_ptr = x_ptr + tokens * x_stride
    length = tl.cdiv(in_features, SPLITS * INPUTS) * INPUTS
    start = split * length
    acc = tl.zeros((ROWS, RANKS), tl.float32)
    for base in range(start, tl.minimum(start + length, in_features), INPUTS):
        inputs = base + tl.arange(0, INPUTS)
        inside = inputs < in_features
        x = tl.load(
            x_row_ptr[:, None] + inputs[None, :],
            mask=row_inside[:, None] & inside[None, :],
            other=0.0,
        )
        a = tl.load(a_ptr[None, :] + inputs[:, None], mask=inside[:, None], other=0.0)
        acc = tl.dot(x, a, acc, input_precision="ieee")
    place = split.to(tl.int64) * num_rows + first + rows
    tl.store(
        shrunk_ptr + place[:, None] * (SLICES * BLOCKS * RANKS) + block * RANKS + ranks[None, :],
        acc,
        mask=row_inside[:, None],
    )


# One variant for every number of rows, so that none is compiled while serving.
@triton.jit(do_not_specialize=["num_rows"])
def _expand_kernel(
    shrunk_ptr,
    bank_ptr,
    table_ptr,
    blocks_ptr,
    order_ptr,
    tiles_ptr,
    out_ptr,
    num_rows,
    out_features,
    out_stride,
    num_blocks,
    bank_stride,
    table_stride,
    SLICES: tl.constexpr,
    BLOCKS: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    OUTPUTS: tl.constexpr,
) -> None:
    """Grid (blocks of outputs, tiles)."""
    tile_ptr = tiles_ptr + tl.program_id(1) * 3
    slot = tl.load(tile_ptr).to(tl.int64)
    if slot < 0:
        return
    block = tl.program_id(0)
    slice_ = tl.load(blocks_ptr + block * 3)
    entry_ptr = table_ptr + slot * table_stride + slice_ * 3
    rank = tl.load(entry_ptr).to(tl.int32)
    if rank == 0:
        return
    first_output = tl.load(blocks_ptr + block * 3 + 1)
    column = tl.load(blocks_ptr + block * 3 + 2)
    end = tl.load(blocks_ptr + block * 3 + 5, mask=block + 1 < num_blocks, other=out_features)
    outputs = tl.arange(0, OUTPUTS)
    output_inside = outputs < end - column
    first = tl.load(tile_ptr + 1)
    rows = tl.arange(0, ROWS)
    row_inside = rows < tl.load(tile_ptr + 2)
    tokens = tl.load(order_ptr + first + rows, mask=row_inside, other=0).to(tl.int64)
    ranks = tl.arange(0, RANKS)
    b_offset = tl.multiple_of(slot * bank_stride + tl.load(entry_ptr + 2), RANKS)
    rank = tl.multiple_of(rank, RANKS)
    b_ptr = bank_ptr + b_offset + (first_output + outputs).to(tl.int64) * rank
    width = SLICES * BLOCKS * RANKS
    shrunk_row_ptr = shrunk_ptr + (first + rows).to(tl.int64) * width + slice_ * BLOCKS * RANKS
    acc = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for base in range(0, rank, RANKS):
        shrunk = tl.zeros((ROWS, RANKS), tl.float32)
        for split in tl.static_range(SPLITS):
            shrunk += tl.load(
                shrunk_row_ptr[:, None]
                + split * num_rows.to(tl.int64) * width
                + base
                + ranks[None, :],
                mask=row_inside[:, None],
                other=0.0,
            )
        b = tl.load(b_ptr[None, :] + base + ranks[:, None], mask=output_inside[None, :], other=0.0)
        acc = tl.dot(shrunk.to(b.dtype), b, acc, input_precision="ieee")
    place_ptr = out_ptr + tokens[:, None] * out_stride + column + outputs[None, :]
    inside = row_inside[:, None] & output_inside[None, :]
    acc += tl.load(place_ptr, mask=inside, other=0.0).to(tl.float32)
    tl.store(place_ptr, acc.to(out_ptr.dtype.element_ty), mask=inside)


def add_lora_triton(
    out: torch.Tensor,
    x: torch.Tensor,
    bank: torch.Tensor,
    table: torch.Tensor,
    blocks: torch.Tensor,
    order: torch.Tensor,
    tiles: torch.Tensor,
    *,
    max_rank: int,
    tile_rows: int,
) -> None:
    """As `add_lora_ref`. The launch depends on shapes alone, so it can be in a CUDA graph. The rows
    of out and x must be contiguous; `tile_rows` a power of two from 16 up.
    """
    n, in_features = x.shape
    slices, num_tiles = table.shape[1], tiles.shape[0]
    assert out.dtype == x.dtype == bank.dtype
    assert max_rank % RANKS == 0
    assert out.stride(1) == x.stride(1) == bank.stride(1) == 1
    if not num_tiles:
        return
    splits = min(SPLITS, max(in_features // LEAST_INPUTS, 1)) if n <= FEW_ROWS else 1
    rank_blocks = max_rank // RANKS
    shrunk = torch.empty((splits, n, slices * max_rank), dtype=torch.float32, device=x.device)
    _shrink_kernel[(slices * rank_blocks * splits, num_tiles)](
        x,
        bank,
        table,
        order,
        tiles,
        shrunk,
        n,
        in_features,
        x.stride(0),
        bank.stride(0),
        table.stride(0),
        SLICES=slices,
        BLOCKS=rank_blocks,
        SPLITS=splits,
        ROWS=tile_rows,
        RANKS=RANKS,
        INPUTS=128,
        num_warps=4,
        num_stages=4,
    )
    _expand_kernel[(blocks.shape[0], num_tiles)](
        shrunk,
        bank,
        table,
        blocks,
        order,
        tiles,
        out,
        n,
        out.shape[1],
        out.stride(0),
        blocks.shape[0],
        bank.stride(0),
        table.stride(0),
        SLICES=slices,
        BLOCKS=rank_blocks,
        SPLITS=splits,
        ROWS=tile_rows,
        RANKS=RANKS,
        OUTPUTS=OUTPUTS,
        num_warps=4,
    )


def add_lora(
    out: torch.Tensor,
    x: torch.Tensor,
    bank: torch.Tensor,
    table: torch.Tensor,
    blocks: torch.Tensor,
    order: torch.Tensor,
    tiles: torch.Tensor,
    *,
    max_rank: int,
    tile_rows: int,
) -> None:
    """The Triton kernels on CUDA, `add_lora_ref` elsewhere."""
    op = add_lora_triton if x.is_cuda else add_lora_ref
    op(out, x, bank, table, blocks, order, tiles, max_rank=max_rank, tile_rows=tile_rows)
