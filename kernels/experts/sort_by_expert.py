"""Sorts the pairs of a token and one of its experts by expert, so that an expert's tokens are
neighbours, without a word to the CPU.
"""

from dataclasses import dataclass

import torch

from formgate.kernels.jit import tl, triton

__all__ = [
    "MAX_PAIRS",
    "SortedPairs",
    "sort_by_expert",
    "sort_by_expert_ref",
    "sort_by_expert_triton",
]

MAX_PAIRS = 4096  # of the kernel, which compares each pair with all others
PAIRS = 64  # a program's
OTHERS = 128  # compared at once


@dataclass(frozen=True, slots=True)
class SortedPairs:
    """Pair `token * top_k + i` is a token's i-th choice. Pairs of experts that this rank does not
    hold come last, and belong to no block.
    """

    pairs: torch.Tensor  # int32 [p]: by position, the pair there
    positions: torch.Tensor  # int32 [p]: by pair, its position
    ends: torch.Tensor  # int32 [num_experts]: where each expert's positions end
    # Blocks of up to `block` positions of one expert: its number, -1 after the last block.
    block_experts: torch.Tensor  # int32 [max_blocks]
    block_starts: torch.Tensor  # int32 [max_blocks]: first position
    block: int


def max_blocks(num_pairs: int, num_experts: int, block: int) -> int:
    """Blocks that any choice of experts can take."""
    return min(num_pairs, num_pairs // block + num_experts)


def sort_by_expert_ref(
    experts: torch.Tensor, num_experts: int, block: int, first: int = 0
) -> SortedPairs:
    """experts int32 [n, top_k]; this rank holds `num_experts` of them, from `first` on."""
    local = experts.flatten() - first
    local = local.where((local >= 0) & (local < num_experts), num_experts)
    sorted_experts, pairs = local.sort(stable=True)
    count = len(pairs)
    device = experts.device
    numbers = torch.arange(num_experts, device=device, dtype=local.dtype)
    ends = torch.searchsorted(sorted_experts, numbers, right=True, out_int32=True)
    positions = torch.empty_like(pairs)
    positions[pairs] = torch.arange(count, device=device)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    blocks = (ends - starts + block - 1) // block
    block_ends = blocks.cumsum(0, dtype=torch.int32)
    index = torch.arange(max_blocks(count, num_experts, block), device=device, dtype=torch.int32)
    owner = torch.searchsorted(block_ends, index, right=True, out_int32=True)
    known = owner.clamp(max=num_experts - 1)
    block_starts = starts[known] + (index - (block_ends - blocks)[known]) * block
    return SortedPairs(
        pairs=pairs.int(),
        positions=positions.int(),
        ends=ends,
        block_experts=owner.where(owner < num_experts, -1),
        block_starts=block_starts.int(),
        block=block,
    )


# One variant for every number of pairs, so that none is compiled while serving.
@triton.jit(do_not_specialize=["num_pairs", "num_blocks", "num_experts", "first"])
def _sort_by_expert_kernel(
    experts_ptr,
    pairs_ptr,
    positions_ptr,
    ends_ptr,
    block_experts_ptr,
    block_starts_ptr,
    num_pairs,
    num_blocks,
    num_experts,
    first,
    BLOCK: tl.constexpr,
    PAIRS: tl.constexpr,
    OTHERS: tl.constexpr,
    EXPERTS_POW2: tl.constexpr,
) -> None:
    """Grid (blocks of pairs, and one program for the experts)."""
    program = tl.program_id(0)
    if program < tl.num_programs(0) - 1:
        pair = program * PAIRS + tl.arange(0, PAIRS)
        own = tl.load(experts_ptr + pair, mask=pair < num_pairs, other=0) - first
        own = tl.where((own >= 0) & (own < num_experts), own, num_experts)
        before = tl.zeros((PAIRS,), tl.int32)
        for base in range(0, num_pairs, OTHERS):
            other = base + tl.arange(0, OTHERS)
            theirs = tl.load(experts_ptr + other, mask=other < num_pairs, other=0) - first
            theirs = tl.where((theirs >= 0) & (theirs < num_experts), theirs, num_experts)
            smaller = theirs[None, :] < own[:, None]
            earlier = (theirs[None, :] == own[:, None]) & (other[None, :] < pair[:, None])
            counted = (smaller | earlier) & (other < num_pairs)[None, :]
            before += tl.sum(counted.to(tl.int32), axis=1)
        tl.store(positions_ptr + pair, before, mask=pair < num_pairs)
        tl.store(pairs_ptr + before, pair, mask=pair < num_pairs)
    else:
        expert = tl.arange(0, EXPERTS_POW2)
        counts = tl.zeros((EXPERTS_POW2,), tl.int32)
        for base in range(0, num_pairs, OTHERS):
            other = base + tl.arange(0, OTHERS)
            theirs = tl.load(experts_ptr + other, mask=other < num_pairs, other=0) - first
            same = (theirs[None, :] == expert[:, None]) & (other < num_pairs)[None, :]
            counts += tl.sum(same.to(tl.int32), axis=1)
        counts = tl.where(expert < num_experts, counts, 0)
        ends = tl.cumsum(counts, axis=0)
        tl.store(ends_ptr + expert, ends, mask=expert < num_experts)
        blocks = (counts + BLOCK - 1) // BLOCK
        block_ends = tl.cumsum(blocks, axis=0)
        for i in range(0, tl.max(blocks, axis=0)):
            index = block_ends - blocks + i
            tl.store(block_experts_ptr + index, expert, mask=i < blocks)
            tl.store(block_starts_ptr + index, ends - counts + i * BLOCK, mask=i < blocks)
        total = tl.sum(blocks, axis=0)
        for base in range(0, num_blocks, OTHERS):
            index = base + tl.arange(0, OTHERS)
            tl.store(block_experts_ptr + index, -1, mask=(index >= total) & (index < num_blocks))


def sort_by_expert_triton(
    experts: torch.Tensor, num_experts: int, block: int, first: int = 0
) -> SortedPairs:
    """As `sort_by_expert_ref`, for at most MAX_PAIRS pairs. Where no block is, `block_starts` has
    garbage.
    """
    assert experts.is_contiguous()
    count = experts.numel()
    assert 0 < count <= MAX_PAIRS
    blocks = max_blocks(count, num_experts, block)

    def numbers(length: int) -> torch.Tensor:
        return torch.empty(length, dtype=torch.int32, device=experts.device)

    found = SortedPairs(
        pairs=numbers(count),
        positions=numbers(count),
        ends=numbers(num_experts),
        block_experts=numbers(blocks),
        block_starts=numbers(blocks),
        block=block,
    )
    _sort_by_expert_kernel[(triton.cdiv(count, PAIRS) + 1,)](
        experts,
        found.pairs,
        found.positions,
        found.ends,
        found.block_experts,
        found.block_starts,
        count,
        blocks,
        num_experts,
        first,
        BLOCK=block,
        PAIRS=PAIRS,
        OTHERS=OTHERS,
        EXPERTS_POW2=triton.next_power_of_2(num_experts),
        num_warps=4,
    )
    return found


def sort_by_expert(
    experts: torch.Tensor, num_experts: int, block: int, first: int = 0
) -> SortedPairs:
    """The Triton kernel for few pairs on CUDA, `sort_by_expert_ref` otherwise."""
    few = experts.is_cuda and 0 < experts.numel() <= MAX_PAIRS
    sort = sort_by_expert_triton if few else sort_by_expert_ref
    return sort(experts, num_experts, block, first)
