"""Finds the lowest logit that top-k, top-p and min-p keep, by a 16-way search instead of a sort. In
each pass, every chunk of a row counts the logits (top-k) or sums the probability mass (top-p) above
each of 16 bounds. The next pass adds up the chunks in order and narrows the interval, so that a
row's result does not depend on the rest of the batch.
"""

from typing import NamedTuple, Self

import torch

from formgate.kernels.jit import tl, triton

__all__ = ["lowest_kept"]

WAYS = 16
PASSES = 8  # 16**8 covers every float32
PART = 256  # logits per inner iteration; Triton's interpreter takes the whole chunk


@triton.jit
def _as_float(key):  # noqa: ANN202
    """The float32 of an integer key. Keys have the order of their floats."""
    key = key.to(tl.int32)
    return tl.where(key >= 0, key, key ^ 0x7FFFFFFF).to(tl.float32, bitcast=True)


@triton.jit
def _as_key(value):  # noqa: ANN202
    bits = value.to(tl.int32, bitcast=True)
    return tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).to(tl.int64)


@triton.jit
def _highest(highest_ptr, row, num_chunks, CHUNKS: tl.constexpr):  # noqa: ANN202
    """A row's highest logit, and whether the row is valid: no NaN, and a finite maximum."""
    chunks = tl.arange(0, CHUNKS)
    parts = tl.load(
        highest_ptr + row * num_chunks + chunks, mask=chunks < num_chunks, other=float("-inf")
    )
    sound = tl.max((parts != parts).to(tl.int32), axis=0) == 0
    highest = tl.max(tl.where(parts != parts, float("-inf"), parts), axis=0)
    return highest, sound & (highest > float("-inf")) & (highest < float("inf"))


@triton.jit
def _bounds(low, high, ways, WAYS: tl.constexpr):  # noqa: ANN202
    """WAYS evenly spaced keys from `low`, at most `high`."""
    return tl.minimum(low + ways * ((high - low + WAYS - 1) // WAYS), high)


@triton.jit
def _narrowed(  # noqa: ANN202
    row,
    keys_ptr,
    total_ptr,
    above_ptr,
    between_ptr,
    limit_ptr,
    num_chunks,
    is_second,  # 1: the previous pass was the first one of its limit
    COUNT: tl.constexpr,
    CHUNKS: tl.constexpr,
    WAYS: tl.constexpr,
):
    """The interval (low, high) and the total mass after the previous pass, from its chunks' counts.
    The search looks for the first key above which lies less than the limit.
    """
    low = tl.load(keys_ptr + row * 2)
    high = tl.load(keys_ptr + row * 2 + 1)
    total = tl.load(total_ptr + row)
    if low < high:
        chunks = tl.arange(0, CHUNKS)
        ways = tl.arange(0, WAYS)
        inside = chunks < num_chunks
        parts = row * num_chunks + chunks
        above = tl.load(
            above_ptr + parts[:, None] * WAYS + ways[None, :], mask=inside[:, None], other=0.0
        )
        above = tl.sum(above, axis=0)
        wanted = tl.load(limit_ptr + row).to(tl.float32)
        if not COUNT:
            # The first bound of the first pass lies below every logit that is left.
            total = tl.where(is_second == 1, tl.sum(tl.where(ways == 0, above, 0.0)), total)
            wanted *= total
        enough = tl.sum((above >= wanted).to(tl.int32), axis=0)  # number of leading bounds
        first = _bounds(low, high, enough.to(tl.int64) - 1, WAYS) + 1
        last = _bounds(low, high, enough.to(tl.int64), WAYS)
        between = tl.sum(tl.load(between_ptr + parts, mask=inside, other=0), axis=0)
        high = tl.where(enough == 0, low, tl.where(enough < WAYS, last, high))
        low = tl.where(enough == 0, low, tl.minimum(first, high))
        # With at most one logit in the interval, every key in it keeps the same logits.
        high = tl.where(between <= 1, low, high)
    return low, high, total


# Specializing on these arguments would compile more variants at start.
@triton.jit(do_not_specialize=["number", "is_behind_count", "num_chunks"])
def _pass_kernel(
    logits_ptr,
    temperature_ptr,
    limit_ptr,
    last_limit_ptr,
    highest_ptr,
    keys_ptr,  # this and the next three: `_SearchState` of the previous pass
    total_ptr,
    above_ptr,
    between_ptr,
    next_keys_ptr,
    next_total_ptr,
    next_above_ptr,
    next_between_ptr,
    logits_stride,
    vocab_size,
    num_chunks,
    number,  # of the pass, from 0
    is_behind_count,  # 1: top-p among the tokens that top-k keeps
    COUNT: tl.constexpr,  # top-k; else top-p
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
    WAYS: tl.constexpr,
    PART: tl.constexpr,
) -> None:
    """Grid (rows, chunks). Reads the state of the previous pass and writes its own."""
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    highest, sound = _highest(highest_ptr, row, num_chunks, CHUNKS)
    temperature = tl.load(temperature_ptr + row)
    limit = tl.load(limit_ptr + row)
    low = tl.full((), -2139095040, tl.int64)  # key of -float32.max, the lowest finite logit
    high = low
    total = tl.full((), 0.0, tl.float32)
    if number == 0:
        if is_behind_count == 1:
            low, _, total = _narrowed(
                row,
                keys_ptr,
                total_ptr,
                above_ptr,
                between_ptr,
                last_limit_ptr,
                num_chunks,
                0,
                True,
                CHUNKS,
                WAYS,
            )
            low = tl.maximum(low - 1, -2139095040)
        high = low
        wanted = sound & (temperature > 0)
        everything = vocab_size if COUNT else 1.0
        if wanted & (limit < everything):
            high = tl.maximum(_as_key(highest), low)
    else:
        low, high, total = _narrowed(
            row,
            keys_ptr,
            total_ptr,
            above_ptr,
            between_ptr,
            limit_ptr,
            num_chunks,
            number,
            COUNT,
            CHUNKS,
            WAYS,
        )
    if chunk == 0:
        tl.store(next_keys_ptr + row * 2, low)
        tl.store(next_keys_ptr + row * 2 + 1, high)
        tl.store(next_total_ptr + row, total)
    if low < high:
        ways = tl.arange(0, WAYS)
        bounds = _as_float(_bounds(low, high, ways.to(tl.int64), WAYS))
        lowest = _as_float(low)
        highest_left = _as_float(high)
        above = tl.zeros((PART, WAYS), tl.float32)
        between = tl.zeros((PART,), tl.int32)
        for part in tl.static_range(CHUNK // PART):
            tokens = chunk * CHUNK + part * PART + tl.arange(0, PART)
            logits = tl.load(
                logits_ptr + row * logits_stride + tokens,
                mask=tokens < vocab_size,
                other=float("-inf"),
            )
            weights = tl.full((PART,), 1.0, tl.float32)
            if not COUNT:
                weights = tl.exp((logits - highest) / temperature)
            above += tl.where(logits[:, None] > bounds[None, :], weights[:, None], 0.0)
            between += ((logits > lowest) & (logits <= highest_left)).to(tl.int32)
        out = row * num_chunks + chunk
        tl.store(next_above_ptr + out * WAYS + ways, tl.sum(above, axis=0))
        tl.store(next_between_ptr + out, tl.sum(between, axis=0))


@triton.jit
def _lowest_kernel(
    temperature_ptr,
    limit_ptr,
    min_p_ptr,
    highest_ptr,
    keys_ptr,
    total_ptr,
    above_ptr,
    between_ptr,
    lowest_ptr,
    vocab_size,
    num_chunks,
    HAS_LIMIT: tl.constexpr,
    COUNT: tl.constexpr,
    HAS_MIN_P: tl.constexpr,
    CHUNKS: tl.constexpr,
    WAYS: tl.constexpr,
) -> None:
    """Grid (rows,): writes the lowest kept logit, or a number between it and the next lower one."""
    row = tl.program_id(0).to(tl.int64)
    highest, sound = _highest(highest_ptr, row, num_chunks, CHUNKS)
    temperature = tl.load(temperature_ptr + row)
    lowest = tl.full((), float("-inf"), tl.float32)
    if sound & (temperature > 0):
        if HAS_LIMIT:
            low, _, _ = _narrowed(
                row,
                keys_ptr,
                total_ptr,
                above_ptr,
                between_ptr,
                limit_ptr,
                num_chunks,
                0,
                COUNT,
                CHUNKS,
                WAYS,
            )
            lowest = _as_float(low)
        if HAS_MIN_P:
            min_p = tl.load(min_p_ptr + row)
            if min_p > 0.0:
                lowest = tl.maximum(lowest, highest + temperature * tl.log(min_p))
        lowest = tl.minimum(lowest, highest)
    tl.store(lowest_ptr + row, lowest)


class _SearchState(NamedTuple):
    """The result of a pass, which the next one reads."""

    keys: torch.Tensor  # int64 [rows, 2]: lowest and highest key of the interval
    total: torch.Tensor  # float32 [rows]: mass of the tokens that earlier limits keep
    above: torch.Tensor  # float32 [rows, chunks, WAYS]: count or mass above each bound
    between: torch.Tensor  # int32 [rows, chunks]: logits between the two keys

    @classmethod
    def empty(cls, rows: int, num_chunks: int, device: torch.device) -> Self:
        return cls(
            torch.empty((rows, 2), dtype=torch.int64, device=device),
            torch.empty(rows, dtype=torch.float32, device=device),
            torch.empty((rows, num_chunks, WAYS), dtype=torch.float32, device=device),
            torch.empty((rows, num_chunks), dtype=torch.int32, device=device),
        )


def lowest_kept(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor | None,
    top_p: torch.Tensor | None,
    min_p: torch.Tensor | None,
    highest: torch.Tensor,
    *,
    chunk: int,
) -> torch.Tensor:
    """Returns float32 [rows]: every logit >= it is kept; -inf in rows without a limit.

    logits float32 [rows, vocab]; limits as for `sample_tokens_ref`; highest float32 [rows, chunks]:
    maximum of each chunk of `chunk` logits, NaN if the chunk holds NaN.
    """
    rows, vocab_size = logits.shape
    num_chunks = highest.shape[1]
    chunks = triton.next_power_of_2(num_chunks)
    before, after = (_SearchState.empty(rows, num_chunks, logits.device) for _ in range(2))
    limits = [(limit, limit is top_k) for limit in (top_k, top_p) if limit is not None]
    last_limit: torch.Tensor | None = None
    for limit, is_count in limits:
        for number in range(PASSES):
            _pass_kernel[(rows, num_chunks)](
                logits,
                temperature,
                limit,
                before.keys if last_limit is None else last_limit,
                highest,
                *before,
                *after,
                logits.stride(0),
                vocab_size,
                num_chunks,
                number,
                int(last_limit is not None),
                COUNT=is_count,
                CHUNKS=chunks,
                CHUNK=chunk,
                WAYS=WAYS,
                PART=PART if logits.is_cuda else chunk,
                num_warps=8,
            )
            before, after = after, before
        last_limit = limit
    lowest = torch.empty(rows, dtype=torch.float32, device=logits.device)
    _lowest_kernel[(rows,)](
        temperature,
        temperature if last_limit is None else last_limit,
        temperature if min_p is None else min_p,
        highest,
        *before,
        lowest,
        vocab_size,
        num_chunks,
        HAS_LIMIT=last_limit is not None,
        COUNT=last_limit is not None and last_limit is top_k,
        HAS_MIN_P=min_p is not None,
        CHUNKS=chunks,
        WAYS=WAYS,
        num_warps=1,
    )
    return lowest
