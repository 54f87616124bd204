"""What each kernel takes on a CUDA device, beside the time its bytes take at the rate of a plain
copy. Shapes of Llama-3.1-8B; every call has data of its own, more of it than the L2 cache holds.

    python benchmarks/kernels.py
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from graph_time import graph_milliseconds

from formgate.kernels.apply_bitmask import apply_bitmask
from formgate.kernels.paged_attention import paged_attention
from formgate.kernels.rms_norm import add_rms_norm
from formgate.kernels.rotary_write_kv import rotary_write_kv
from formgate.kernels.sample_tokens import sample_tokens
from formgate.kernels.silu_and_mul import silu_and_mul
from formgate.kernels.skinny_linear import linear

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 4096, 14336, 32, 8, 128, 131072
BLOCK = 16
SPREAD = 400 << 20  # bytes: several times the L2 cache
Work = Callable[[], object]


def numbers(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype)


def microseconds(works: list[Work]) -> float:
    """Of one of these, all in a graph."""

    def all_works() -> None:
        for work in works:
            work()

    return graph_milliseconds(all_works, 9) * 1000 / len(works)


def decode_attention(batch: int, context: int) -> tuple[Work, int]:
    blocks = -(-context // BLOCK)
    caches = [numbers(batch * blocks, BLOCK, KV_HEADS, HEAD_DIM) for _ in range(2)]
    tables = torch.randperm(batch * blocks, device="cuda").int().view(batch, blocks)
    starts = torch.arange(batch + 1, device="cuda", dtype=torch.int32)
    contexts = torch.full((batch,), context, device="cuda", dtype=torch.int32)
    query = numbers(batch, HEADS, HEAD_DIM)

    def work() -> None:
        paged_attention(
            query,
            caches[0],
            caches[1],
            tables,
            starts,
            contexts,
            max_query_len=1,
            max_context_len=8192,
            scale=HEAD_DIM**-0.5,
        )

    return work, 2 * batch * context * KV_HEADS * HEAD_DIM * 2 + 2 * query.nbytes


def skinny(batch: int, outputs: int, inputs: int) -> tuple[Work, int]:
    x, weight = numbers(batch, inputs), numbers(outputs, inputs)
    return lambda: linear(x, weight), x.nbytes + weight.nbytes + batch * outputs * 2


def norm(batch: int) -> tuple[Work, int]:
    x, residual, weight = numbers(batch, HIDDEN), numbers(batch, HIDDEN), numbers(HIDDEN)
    return lambda: add_rms_norm(x, residual, weight, 1e-5), 4 * x.nbytes + weight.nbytes


def gate(batch: int) -> tuple[Work, int]:
    x = numbers(batch, 2 * INTERMEDIATE)
    return lambda: silu_and_mul(x), x.nbytes * 3 // 2


def rotary(batch: int) -> tuple[Work, int]:
    qkv = numbers(batch, HEADS + 2 * KV_HEADS, HEAD_DIM)
    query, key, value = qkv.split((HEADS, KV_HEADS, KV_HEADS), dim=1)
    caches = [numbers(-(-batch // BLOCK), BLOCK, KV_HEADS, HEAD_DIM) for _ in range(2)]
    positions = torch.arange(batch, device="cuda")
    cos_sin = numbers(8192, HEAD_DIM, dtype=torch.float32)

    def work() -> None:
        rotary_write_kv(positions, query, key, value, cos_sin, *caches, positions)

    return work, 2 * qkv.nbytes + batch * HEAD_DIM * 4


def bitmask(batch: int) -> tuple[Work, int]:
    logits = numbers(batch, VOCAB, dtype=torch.float32)
    mask = torch.randint(-(2**31), 2**31, (batch, VOCAB // 32), device="cuda").int()
    return lambda: apply_bitmask(logits, mask), 2 * logits.nbytes + mask.nbytes


def sampler(batch: int, top_p: bool) -> tuple[Work, int]:
    logits = numbers(batch, VOCAB, dtype=torch.float32)
    uniform = torch.rand(batch, device="cuda")
    ones = torch.ones(batch, device="cuda")
    limits = (torch.full((batch,), 50, device="cuda"), ones * 0.95) if top_p else ()
    return lambda: sample_tokens(logits, uniform, ones, *limits), logits.nbytes


def cases() -> Iterator[tuple[str, Callable[[], tuple[Work, int]]]]:
    for batch, context in ((1, 512), (8, 512), (64, 512), (256, 512), (1, 8192), (8, 8192)):
        yield (
            f"attention, {batch} x {context} keys",
            lambda b=batch, c=context: decode_attention(b, c),
        )
    shapes = {
        "qkv": (6144, HIDDEN),
        "out": (HIDDEN, HIDDEN),
        "gate, up": (2 * INTERMEDIATE, HIDDEN),
        "down": (HIDDEN, INTERMEDIATE),
        "head": (VOCAB, HIDDEN),
    }
    for batch, (name, shape) in itertools.product((1, 8), shapes.items()):
        yield f"linear {name}, {batch} rows", lambda b=batch, s=shape: skinny(b, *s)
    for batch in (1, 64, 256, 8192):
        yield f"residual + RMSNorm, {batch} rows", lambda b=batch: norm(b)
        yield f"SiLU and mul, {batch} rows", lambda b=batch: gate(b)
        yield f"rotary + KV write, {batch} rows", lambda b=batch: rotary(b)
    for batch in (1, 64, 256):
        yield f"bitmask, {batch} rows", lambda b=batch: bitmask(b)
        yield f"sampling, temperature, {batch} rows", lambda b=batch: sampler(b, False)
        yield f"sampling, top-k and top-p, {batch} rows", lambda b=batch: sampler(b, True)


def copy_rate() -> float:
    """Bytes a microsecond, read and written by a kernel: in a graph, a plain copy is none."""
    source = torch.zeros(1 << 30, dtype=torch.bfloat16, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / microseconds([lambda: torch.neg(source, out=target)])


def main() -> None:
    rate = copy_rate()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; copy {rate / 1e6:.2f} TB/s")
    print(f"{'':40} {'us':>8} {'floor':>8} {'of copy':>8}")
    for name, make in cases():
        first, moved = make()
        works = [first, *(make()[0] for _ in range(min(SPREAD // moved, 40)))]
        took, floor = microseconds(works), moved / rate
        print(f"{name:40} {took:8.1f} {floor:8.1f} {100 * floor / took:7.0f}%", flush=True)


if __name__ == "__main__":
    main()
