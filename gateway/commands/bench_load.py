"""Load on a server of OpenAI's API: streamed chat completions at one concurrency after the other,
and what came of them. It opens no more than `concurrency` connections, and starts no request after
a level's time.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from formgate.gateway.commands.answer_stream import Answer, StreamError, async_deltas
from formgate.gateway.commands.inputs import InputError
from formgate.gateway.commands.running_server import error_text, message_of

REQUEST_TIMEOUT = 120.0  # seconds, for a whole answer
WORDS = (
    *("river", "stone", "window", "garden", "letter", "winter", "engine", "market", "bridge"),
    *("silver", "music", "doctor", "island", "shadow", "ticket", "forest", "mirror", "planet"),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """`requests`: of a level; None: four for each connection, at least eight. `seconds`: after
    which a level starts no further request."""

    body: Mapping[str, Any]
    prompt_words: int
    requests: int | None
    seconds: float
    seed: int = 0

    def requests_at(self, concurrency: int) -> int:
        return self.requests or max(4 * concurrency, 8)


@dataclass(slots=True)
class Sample:
    """One request. Times are in seconds; `gaps` are those between pieces of the answer."""

    total: float = 0.0
    first_token: float | None = None
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Level:
    """The outcome at one concurrency. Times are in seconds; None: nothing was measured."""

    concurrency: int
    requests: int
    failed: int
    seconds: float
    tokens: int
    tokens_per_second: float
    requests_per_second: float
    first_token: dict[str, float] | None  # p50, p90, p99
    gap: dict[str, float] | None
    total: dict[str, float] | None
    error: str = ""  # of the first request that failed


def prompts(plan: Plan, concurrency: int) -> Iterator[str]:
    """Prompts that share no prefix, and are the same for the same seed and concurrency."""
    source = random.Random(f"{plan.seed} {concurrency}")
    for _ in range(plan.requests_at(concurrency)):
        words = " ".join(source.choices(WORDS, k=plan.prompt_words))
        yield f"{words}. Write a story with these words."


async def run_levels(
    client: httpx.AsyncClient, plan: Plan, concurrencies: Sequence[int]
) -> AsyncIterator[Level]:
    """Raises InputError if not even the first request, which warms up, is answered."""
    warm_up = await one_request(client, plan, "Hello.")
    if warm_up.error:
        raise InputError(f"{client.base_url}: {warm_up.error}.")
    for concurrency in concurrencies:
        yield await run_level(client, plan, concurrency)


async def run_level(client: httpx.AsyncClient, plan: Plan, concurrency: int) -> Level:
    waiting = prompts(plan, concurrency)
    samples: list[Sample] = []
    began = time.monotonic()

    async def connection() -> None:
        for prompt in waiting:
            if time.monotonic() - began > plan.seconds:
                return
            samples.append(await one_request(client, plan, prompt))

    await asyncio.gather(*(connection() for _ in range(concurrency)))
    return summary(samples, concurrency, time.monotonic() - began)


async def one_request(client: httpx.AsyncClient, plan: Plan, prompt: str) -> Sample:
    """Its errors are part of the sample."""
    sample = Sample()
    began = time.monotonic()
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT):
            await _answer(client, plan, prompt, sample, began)
    except TimeoutError:
        sample.error = f"no whole answer in {REQUEST_TIMEOUT:.0f} s"
    except (httpx.HTTPError, StreamError) as error:
        sample.error = error_text(error)
    sample.total = time.monotonic() - began
    return sample


async def _answer(
    client: httpx.AsyncClient, plan: Plan, prompt: str, sample: Sample, began: float
) -> None:
    body = {
        **plan.body,
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    answer, num_pieces, last = Answer(), 0, began
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            await response.aread()
            raise StreamError(message_of(response).rstrip("."))
        async for _ in async_deltas(answer, response.aiter_lines()):
            now = time.monotonic()
            if sample.first_token is None:
                sample.first_token = now - began
            else:
                sample.gaps.append(now - last)
            num_pieces, last = num_pieces + 1, now
    sample.tokens = int(answer.usage.get("completion_tokens") or num_pieces)


def summary(samples: Sequence[Sample], concurrency: int, seconds: float) -> Level:
    good = [sample for sample in samples if not sample.error]
    tokens = sum(sample.tokens for sample in good)
    return Level(
        concurrency=concurrency,
        requests=len(samples),
        failed=len(samples) - len(good),
        seconds=seconds,
        tokens=tokens,
        tokens_per_second=tokens / seconds,
        requests_per_second=len(good) / seconds,
        first_token=percentiles([s.first_token for s in good if s.first_token is not None]),
        gap=percentiles([gap for sample in good for gap in sample.gaps]),
        total=percentiles([sample.total for sample in good]),
        error=next((sample.error for sample in samples if sample.error), ""),
    )


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """p50, p90 and p99 by nearest rank; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    return {
        f"p{percent}": ordered[max(math.ceil(percent / 100 * len(ordered)) - 1, 0)]
        for percent in (50, 90, 99)
    }
