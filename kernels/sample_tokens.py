"""Samples a token from every row of logits: temperature, top-k, top-p and min-p, then the inverse
of the cumulative distribution at one uniform number per row. The kernels do not sort. They read a
row without truncation twice; sample_limits.py finds the threshold of the others.
"""

import torch

from formgate.kernels.jit import tl, triton
from formgate.kernels.sample_limits import lowest_kept
from formgate.kernels.sample_tokens_ref import BROKEN, check, sample_tokens_ref

__all__ = ["BROKEN", "sample_tokens", "sample_tokens_ref", "sample_tokens_triton"]

CHUNK = 4096


@triton.jit
def _chunk_kernel(
    logits_ptr,
    temperature_ptr,
    lowest_ptr,
    highest_ptr,
    best_ptr,
    total_ptr,
    logits_stride,
    vocab_size,
    num_chunks,
    LIMITED: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """Grid (rows, chunks): writes a chunk's highest logit (NaN if the chunk holds NaN), its token,
    and the mass, relative to that logit, of all logits >= `lowest`.
    """
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    tokens = chunk * CHUNK + tl.arange(0, CHUNK)
    logits = tl.load(
        logits_ptr + row * logits_stride + tokens, mask=tokens < vocab_size, other=float("-inf")
    )
    broken = tl.max((logits != logits).to(tl.int32), axis=0) > 0
    logits = tl.where(logits != logits, float("-inf"), logits)
    highest = tl.max(logits, axis=0)
    best = tl.min(tl.where(logits == highest, tokens, vocab_size), axis=0)
    temperature = tl.load(temperature_ptr + row)
    # Avoid inf - inf in a chunk without allowed tokens and in a broken one.
    finite = (highest > float("-inf")) & (highest < float("inf"))
    scaled = (logits - tl.where(finite, highest, 0.0)) / tl.where(temperature > 0, temperature, 1.0)
    mass = tl.exp(tl.minimum(scaled, 0.0))
    if LIMITED:
        mass = tl.where(logits >= tl.load(lowest_ptr + row), mass, 0.0)
    out = row * num_chunks + chunk
    tl.store(highest_ptr + out, tl.where(broken, float("nan"), highest))
    tl.store(best_ptr + out, best)
    tl.store(total_ptr + out, tl.sum(mass, axis=0))


@triton.jit
def _choose_kernel(
    logits_ptr,
    uniform_ptr,
    temperature_ptr,
    lowest_ptr,
    highest_ptr,
    best_ptr,
    total_ptr,
    tokens_ptr,
    logits_stride,
    vocab_size,
    num_chunks,
    LIMITED: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """Grid (rows,): finds the chunk that the uniform number falls into, then the token in it."""
    row = tl.program_id(0).to(tl.int64)
    chunks = tl.arange(0, CHUNKS)
    inside = chunks < num_chunks
    parts = row * num_chunks + chunks
    highs = tl.load(highest_ptr + parts, mask=inside, other=float("-inf"))
    sound = tl.max((highs != highs).to(tl.int32), axis=0) == 0
    highs = tl.where(highs != highs, float("-inf"), highs)
    highest = tl.max(highs, axis=0)
    sound = sound & (highest > float("-inf")) & (highest < float("inf"))
    bests = tl.load(best_ptr + parts, mask=inside, other=vocab_size)
    token = tl.min(tl.where(highs == highest, bests, vocab_size), axis=0)
    temperature = tl.load(temperature_ptr + row)
    if sound & (temperature > 0):
        totals = tl.load(total_ptr + parts, mask=inside, other=0.0)
        # A chunk of nothing but -inf has no mass.
        totals = tl.where(totals > 0, totals * tl.exp((highs - highest) / temperature), 0.0)
        cumulative = tl.cumsum(totals, axis=0)
        target = tl.load(uniform_ptr + row) * tl.max(cumulative, axis=0)
        reached = (cumulative > target) & (totals > 0)
        chunk = tl.min(tl.where(reached, chunks, CHUNKS), axis=0)
        if chunk < CHUNKS:
            before = tl.sum(tl.where(chunks < chunk, totals, 0.0), axis=0)
            tokens = chunk * CHUNK + tl.arange(0, CHUNK)
            logits = tl.load(
                logits_ptr + row * logits_stride + tokens,
                mask=tokens < vocab_size,
                other=float("-inf"),
            )
            mass = tl.exp((logits - highest) / temperature)
            if LIMITED:
                mass = tl.where(logits >= tl.load(lowest_ptr + row), mass, 0.0)
            # If rounding leaves no token above the target, take the last token with mass.
            found = (tl.cumsum(mass, axis=0) > target - before) & (mass > 0)
            first = tl.min(tl.where(found, tokens, vocab_size), axis=0)
            last = tl.max(tl.where(mass > 0, tokens, -1), axis=0)
            token = tl.where(first < vocab_size, first, tl.where(last >= 0, last, token))
    tl.store(tokens_ptr + row, tl.where(sound, token, -1).to(tl.int64))


def sample_tokens_triton(
    logits: torch.Tensor,
    uniform: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor | None = None,
    top_p: torch.Tensor | None = None,
    min_p: torch.Tensor | None = None,
) -> torch.Tensor:
    """As `sample_tokens_ref`. Rows of `logits` must be contiguous."""
    check(logits, uniform, temperature, top_k, top_p, min_p)
    assert logits.stride(1) == 1
    rows, vocab_size = logits.shape
    device = logits.device
    tokens = torch.empty(rows, dtype=torch.int64, device=device)
    if not rows:
        return tokens
    num_chunks = triton.cdiv(vocab_size, CHUNK)
    chunks = triton.next_power_of_2(num_chunks)
    # Separate tensors: parts of one tensor may be unaligned, which compiles another variant.
    highest = torch.empty((rows, num_chunks), dtype=torch.float32, device=device)
    total = torch.empty_like(highest)
    best = torch.empty((rows, num_chunks), dtype=torch.int32, device=device)
    limited = top_k is not None or top_p is not None or min_p is not None
    lowest = temperature  # a placeholder, not read unless there are limits
    sizes = (logits.stride(0), vocab_size, num_chunks)

    def sum_chunks(lowest: torch.Tensor, *, use_limits: bool) -> None:
        _chunk_kernel[(rows, num_chunks)](
            logits,
            temperature,
            lowest,
            highest,
            best,
            total,
            *sizes,
            LIMITED=use_limits,
            CHUNK=CHUNK,
            num_warps=8,
        )

    sum_chunks(lowest, use_limits=False)
    if limited:
        lowest = lowest_kept(logits, temperature, top_k, top_p, min_p, highest, chunk=CHUNK)
        sum_chunks(lowest, use_limits=True)
    _choose_kernel[(rows,)](
        logits,
        uniform,
        temperature,
        lowest,
        highest,
        best,
        total,
        tokens,
        *sizes,
        LIMITED=limited,
        CHUNKS=chunks,
        CHUNK=CHUNK,
        num_warps=8,
    )
    return tokens


def sample_tokens(
    logits: torch.Tensor,
    uniform: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor | None = None,
    top_p: torch.Tensor | None = None,
    min_p: torch.Tensor | None = None,
) -> torch.Tensor:
    """The Triton kernels on CUDA, `sample_tokens_ref` elsewhere."""
    op = sample_tokens_triton if logits.is_cuda else sample_tokens_ref
    return op(logits, uniform, temperature, top_k, top_p, min_p)
