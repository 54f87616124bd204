"""What a 4-bit (or 8-bit) linear layer takes on a CUDA device, beside the same layer in bfloat16.
Shapes of Llama-3.1-8B, groups of 128 inputs; GB/s counts the bytes of the packed weights and
their groups. Every call has weights of its own, more of them than the L2 cache holds.

    python benchmarks/quantized_linear.py [--bits 8] [--sweep]

`--sweep` times other tiles than the chosen ones, up to 64 rows.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from graph_time import graph_milliseconds

from formgate.kernels.quantized.grouped_linear import (
    MAX_ROWS,
    Tiles,
    grouped_linear,
    grouped_linear_triton,
    new_locks,
    tiles_of,
)
from formgate.kernels.quantized.packed_weight import PackedWeight, pack_weight
from formgate.kernels.skinny_linear import linear

SHAPES = {  # outputs, inputs
    "qkv_proj": (6144, 4096),
    "o_proj": (4096, 4096),
    "gate_up_proj": (28672, 4096),
    "down_proj": (4096, 14336),
}
ROWS = (1, 8, 64, 256)
GROUP = 128
SPREAD = 400 << 20  # bytes: several times the L2 cache
Call = Callable[[], object]


def packed(outputs: int, inputs: int, bits: int) -> PackedWeight:
    values = torch.randint(0, 2**bits, (outputs, inputs), device="cuda", dtype=torch.uint8)
    scales = torch.full((inputs // GROUP, outputs), 0.004, device="cuda").half()
    zeros = torch.full_like(scales, 2 ** (bits - 1), dtype=torch.uint8)
    return pack_weight(values, scales, zeros, bits)


def microseconds(calls: list[Call]) -> float:
    """Of one of these, all in a graph."""

    def work() -> None:
        for call in calls:
            call()

    return graph_milliseconds(work, 9) * 1000 / len(calls)


def candidates(rows: int, outputs: int, blocks: int) -> Iterator[Tiles]:
    height = tiles_of(rows, outputs, blocks).rows
    for width, warps, stages, splits in itertools.product(
        (32, 64, 128), (4, 8), (3, 4, 6), (1, 2, 4, 7, 8, 14, 16)
    ):
        enough = width >= 16 * warps or warps == 4
        if enough and splits <= blocks // 2 and (splits - 1) * -(-blocks // splits) < blocks:
            yield Tiles(height, width, splits, num_warps=warps, num_stages=stages)


def sweep(weights: list[PackedWeight], locks: torch.Tensor, x: torch.Tensor) -> str:
    outputs, blocks = weights[0].out_features, weights[0].words.shape[0]
    times = []
    for tiles in candidates(x.shape[0], outputs, blocks):
        calls: list[Call] = [
            lambda weight=weight, tiles=tiles: grouped_linear_triton(
                x, weight, locks=locks, tiles=tiles
            )
            for weight in weights
        ]
        times.append((microseconds(calls), str(tiles)))
    return "\n".join(f"      {time:7.2f} us  {tiles}" for time, tiles in sorted(times)[:5])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4)
    parser.add_argument("--sweep", action="store_true")
    options = parser.parse_args()
    print(f"{'layer':13} {'rows':>4} {'us':>8} {'GB/s':>6} {'TFLOP/s':>8} {'bfloat16 us':>12}")
    for name, (outputs, inputs) in SHAPES.items():
        one = packed(outputs, inputs, options.bits)
        size = one.words.nbytes + one.groups.nbytes
        copies = -(-SPREAD // size)
        weights = [one, *(packed(outputs, inputs, options.bits) for _ in range(copies - 1))]
        locks = new_locks(one)
        dense = [torch.randn(outputs, inputs, device="cuda").bfloat16() for _ in range(4)]
        for rows in ROWS:
            x = torch.randn(rows, inputs, device="cuda").bfloat16()
            ours = microseconds(
                [lambda w=w, x=x, k=locks: grouped_linear(x, w, locks=k) for w in weights]
            )
            product = linear if rows <= 16 else F.linear
            theirs = microseconds([lambda w=w, x=x, p=product: p(x, w) for w in dense])
            flops = 2 * rows * outputs * inputs
            print(
                f"{name:13} {rows:4} {ours:8.2f} {size / ours / 1e3:6.0f} "
                f"{flops / ours / 1e6:8.1f} {theirs:12.2f}"
            )
            if options.sweep and rows <= MAX_ROWS:
                print(sweep(weights, locks, x))


if __name__ == "__main__":
    main()
