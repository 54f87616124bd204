"""Sends cases to a server, keeps what is wrong by kind, and makes a failing case small."""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Iterator
from typing import Any

import httpx

from tests.fuzz.bodies import Bodies, Case, parent_of, paths
from tests.fuzz.judge import Answer, wrong
from tests.fuzz.watch import gauge

ABANDON_SECONDS = 0.05
IDLE_SECONDS = 60.0
SHRINK_REQUESTS = 150
SHRINK_SECONDS = 20.0
GAUGES = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")

Found = tuple[str, Case, Answer]


async def send(client: httpx.AsyncClient, case: Case) -> Answer:
    timeout = ABANDON_SECONDS if case.abandoned else client.timeout
    try:
        response = await client.request(
            case.method, case.path, content=case.content, headers=case.headers, timeout=timeout
        )
    except httpx.HTTPError as error:
        return Answer(0, {}, type(error).__name__)
    return Answer(response.status_code, response.headers, response.text)


async def idle_metrics(client: httpx.AsyncClient) -> list[str]:
    """What is still held when all requests have been answered; nothing, after a while."""
    deadline = time.monotonic() + IDLE_SECONDS
    while True:
        text = (await client.get("/metrics")).text
        held = [f"{name} is {value}" for name in GAUGES if (value := gauge(text, name))]
        if not held or time.monotonic() > deadline:
            return held
        await asyncio.sleep(0.1)


class Run:
    def __init__(
        self,
        client: httpx.AsyncClient,
        bodies: Bodies,
        concurrency: int,
        seconds: float | None = None,
    ) -> None:
        self._client = client
        self._bodies = bodies
        self._concurrency = concurrency
        self._until = None if seconds is None else time.monotonic() + seconds
        self.found: dict[str, list[Found]] = collections.defaultdict(list)
        self.statuses: collections.Counter[int] = collections.Counter()
        self.num_abandoned = 0  # requests that the client itself left before their answer
        self.slowest: list[tuple[float, str]] = []
        self.under_way: dict[str, float] = {}  # when it began, by its name
        self.sent = 0
        self.last = 0

    async def all(self, first: int, described: int, constraints: int) -> None:
        """Of every number from `first` on; both kinds side by side."""
        names = self._names(first, described, constraints)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._concurrency):
                group.create_task(self._work(names))

    @staticmethod
    def _names(first: int, described: int, constraints: int) -> Iterator[tuple[str, int]]:
        for number in range(first, max(described, constraints)):
            if number < described:
                yield "described", number
            # Evenly among the others, and to the end if there are more of them.
            if number < constraints and described <= constraints:
                yield "constraint", number
            elif described > constraints and constraints:
                every = described // constraints
                if number % every == 0 and number // every < constraints:
                    yield "constraint", number // every

    async def _work(self, names: Iterator[tuple[str, int]]) -> None:
        for kind, number in names:
            if self._until is not None and time.monotonic() > self._until:
                return
            case = getattr(self._bodies, kind)(number)
            name = f"{kind} {number}"
            self.under_way[name] = time.monotonic()
            answer = await send(self._client, case)
            self.slowest.append((time.monotonic() - self.under_way.pop(name), name))
            self.slowest = sorted(self.slowest, reverse=True)[:5]
            if case.abandoned and not answer.status:
                self.num_abandoned += 1
            else:
                self.statuses[answer.status] += 1
            self.sent += 1
            self.last = max(self.last, number if kind == "described" else 0)
            for what in dict.fromkeys(wrong(case, answer)):
                self.found[what].append((name, case, answer))


async def shrunk(client: httpx.AsyncClient, case: Case, kind: str) -> Case:
    """A smaller body with the same failure, by leaving out one member after the other."""
    if not isinstance(case.body, dict | list):
        return case
    smallest, tries = case, 0
    deadline = time.monotonic() + SHRINK_SECONDS
    changed = True
    while changed:
        changed = False
        for smaller in _smaller(smallest):
            tries += 1
            if tries > SHRINK_REQUESTS or time.monotonic() > deadline:
                return smallest
            tried = smallest.with_body(smaller)
            if kind in wrong(tried, await send(client, tried)):
                smallest, changed = tried, True
                break
    return smallest


def _smaller(case: Case) -> Iterator[Any]:
    for path in sorted(paths(case.body), key=len):
        body = case.body  # read anew
        del parent_of(body, path)[path[-1]]
        yield body
    for path in paths(case.body):
        body = case.body
        parent = parent_of(body, path)
        value = parent[path[-1]]
        if isinstance(value, str | list) and len(value) > 1:
            parent[path[-1]] = value[: len(value) // 2]
            yield body
