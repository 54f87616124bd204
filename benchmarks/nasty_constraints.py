"""Constraints made to hurt, against a running server, while other requests stream: each must be
answered by 200 or 400 soon, the streams must not stall, and the memory must come back.

    formgate serve --port 8000 &
    python benchmarks/nasty_constraints.py --pid $!
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx


def nested(keyword: str, depth: int, leaf: Any) -> Any:
    schema = leaf
    for _ in range(depth):
        if keyword in ("allOf", "anyOf", "oneOf"):
            schema = {keyword: [schema, {"type": ["string", "array", "object"]}]}
        elif keyword == "properties":
            schema = {"type": "object", "properties": {"a": schema, "b": {}}}
        else:
            schema = {keyword: schema}
    return schema


def doubling(levels: int) -> Any:
    """Each definition asks twice for the next one."""
    definitions = {
        f"d{at}": {
            "type": "object",
            "properties": {
                "x": {"$ref": f"#/$defs/d{at + 1}"},
                "y": {"$ref": f"#/$defs/d{at + 1}"},
            },
            "required": ["x", "y"],
        }
        for at in range(levels)
    }
    definitions[f"d{levels}"] = {"type": "integer"}
    return {"$ref": "#/$defs/d0", "$defs": definitions}


def schemas(r: random.Random) -> Iterator[Any]:
    while True:
        n = r.choice([10, 40, 150, 500, 2_000])
        few = min(n, 60)
        yield nested(r.choice(["properties", "allOf", "anyOf", "oneOf", "not", "items"]), n, {})
        yield doubling(r.choice([5, 10, 30, 200]))
        yield {"enum": [f"{r.random()}" for _ in range(r.choice([1_000, 100_000]))]}
        yield {"type": "string", "minLength": r.choice([10**4, 10**9]), "maxLength": 10**9}
        yield {"type": "string", "maxLength": 10 ** r.randint(2, 8), "pattern": r.choice(PATTERNS)}
        yield {"type": "array", "minItems": 10 ** r.randint(2, 9)}
        yield {"type": "array", "uniqueItems": True, "items": {"enum": list(range(n))}}
        yield {"type": "array", "items": {"type": "integer"}, "contains": {"minimum": n}}
        yield {
            "oneOf": [
                {"properties": {f"k{at % few}": {"minimum": at}}, "required": [f"k{at}"]}
                for at in range(few)
            ]
        }
        yield {
            "allOf": [
                {"anyOf": [{"required": [f"a{at}"]}, {"required": [f"b{at}"]}]} for at in range(few)
            ]
        }
        yield {
            "type": "object",
            "patternProperties": {f"^{chr(97 + at % 26)}{at}.*z": {} for at in range(few)},
        }
        yield {"type": "object", "minProperties": n, "additionalProperties": {"type": "null"}}
        yield {"type": "object", "properties": {f"p{at}": {"type": "integer"} for at in range(n)}}
        yield {"type": "integer", "multipleOf": r.choice([99_991, 1_000_003, 1e-9, 7])}
        yield {"type": "number", "minimum": -(10 ** r.randint(1, 300)), "maximum": 1e-300}
        yield {"not": {"not": nested("not", few, {"type": "string", "pattern": "(a|b)*c"})}}
        yield {"$ref": "#"}
        yield {"anyOf": [{"$ref": "#"}, {"$ref": "#/anyOf/0"}]}
        yield {"if": nested("allOf", few, {}), "then": doubling(20), "else": False}


PATTERNS = (
    "^(a+)+$",
    "(x+x+)+y",
    "^(([a-z])+.)+[A-Z]([a-z])+$",
    "[a-z]{1,10000}",
    "(a{1,1000}){1,1000}",
    "((a{0,30}){0,30}){0,30}",
    "(?:.*.*.*.*)=",
    "^(?=.*[a-z])(?=.*[0-9])(?=.*[A-Z]).{8,}$",
    "(a|aa|aaa|aaaa|aaaaa)*b{5000}",
    "[^\\x00-\\u{10FFFF}]",
    "(" * 300 + "a" + ")" * 300,
    "\\p{L}{100,2000}",
    "|".join(f"{n}x{n}" for n in range(3_000)),
)


MESSAGES = [{"role": "user", "content": "Go."}]
DEPTH = 20_000  # of Python's own stack, for schemas nested as deep


def requests(count: int, seed: int) -> Iterator[bytes]:
    r = random.Random(seed)
    made = schemas(r)
    for at in range(count):
        # As bytes right away: the client shares its thread with the streams that it times.
        if at % 5 == 4:
            constraint = {"structured_outputs": {"regex": r.choice(PATTERNS)}}
        else:
            schema = {"name": "nasty", "schema": next(made)}
            constraint = {"response_format": {"type": "json_schema", "json_schema": schema}}
        settings = {"messages": MESSAGES, "max_tokens": 64, "temperature": 1.0, "seed": at}
        yield json.dumps({**constraint, **settings}).encode()


async def stream(client: httpx.AsyncClient, gaps: list[float], stop: asyncio.Event) -> None:
    """Free text, again and again; the time between two chunks."""
    while not stop.is_set():
        body = {
            "messages": [{"role": "user", "content": "Tell me of the sea."}],
            "max_tokens": 200,
            "ignore_eos": True,
            "stream": True,
        }
        last: float | None = None
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    now = time.monotonic()
                    if last is not None:
                        gaps.append(now - last)
                    last = now


def memory(pid: int) -> float:
    """MB of a process and all that descend from it. Pages that several of them share count once."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(map(_proportional_kb, family)) / 1024


def _proportional_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def quantiles(values: list[float]) -> str:
    values = sorted(values)
    at = [values[min(len(values) - 1, int(q * len(values)))] for q in (0.5, 0.9, 0.99, 1.0)]
    return " / ".join(f"{1e3 * value:.0f}" for value in at) + " ms (p50, p90, p99, most)"


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--streams", type=int, default=2)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pid", type=int, help="of the server, to see its memory")
    options = parser.parse_args()
    sys.setrecursionlimit(DEPTH)
    load = list(requests(options.count, options.seed))
    gaps: list[float] = []
    quiet: list[float] = []
    times: list[tuple[float, int, str]] = []
    answers: collections.Counter[str] = collections.Counter()
    room = asyncio.Semaphore(options.concurrency)
    async with httpx.AsyncClient(base_url=options.url, timeout=120) as client:

        async def ask(content: bytes) -> None:
            async with room:
                started = time.monotonic()
                response = await client.post("/v1/chat/completions", content=content)
                seconds = time.monotonic() - started
            what = content[:200].decode()
            times.append((seconds, response.status_code, what))
            error = response.json().get("error") or {}
            answers[f"{response.status_code} {error.get('code') or ''}".strip()] += 1
            if response.status_code not in (200, 400):
                print(f"  {response.status_code}: {what} {response.text[:200]}")

        if options.pid:
            print(f"before: {memory(options.pid):.0f} MB")
        for measured, asked in ((quiet, []), (gaps, load)):
            stop = asyncio.Event()
            streams = [
                asyncio.create_task(stream(client, measured, stop)) for _ in range(options.streams)
            ]
            if asked:
                await asyncio.gather(*map(ask, asked))
            else:
                await asyncio.sleep(10)
            stop.set()
            await asyncio.gather(*streams)
        if options.pid:
            print(f"after: {memory(options.pid):.0f} MB")
    print(f"answers: {dict(answers)}")
    print(f"each: {quantiles([seconds for seconds, _, _ in times])}")
    print(f"gaps of the streams beside nothing: {quantiles(quiet)}")
    print(f"gaps of the streams beside the load: {quantiles(gaps)}")
    for seconds, status, what in sorted(times, reverse=True)[:8]:
        print(f"  {seconds:.2f} s, {status}: {what[:150]}")
    return int(any(status not in (200, 400) for _, status, _ in times))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
