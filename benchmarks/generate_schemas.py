"""Generates under every schema of a file, through a running server, and checks every answer with
jsonschema: what formgate says is valid must be.

    formgate serve --port 8000 &                       # or --load-format dummy: random weights
    python benchmarks/generate_schemas.py open.jsonl.gz --samples 3 --temperature 1.0
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import gzip
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from formgate.constrain.schema.validate import validate_json

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


class Run:
    def __init__(self, options: argparse.Namespace, client: httpx.AsyncClient) -> None:
        self._options = options
        self._client = client
        self._room = asyncio.Semaphore(options.concurrency)
        self.outcomes: dict[str, list[str]] = collections.defaultdict(list)
        self.tokens = 0
        self.closed = 0

    async def sample(self, row: Row, seed: int) -> None:
        options = self._options
        body = {
            "messages": [{"role": "user", "content": "Give me an example."}],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "any", "schema": row["schema"]},
            },
            "structured_outputs": {"close_within_budget": True},
            "max_tokens": options.max_tokens,
            "temperature": options.temperature,
            "seed": seed,
        }
        async with self._room:
            response = await self._client.post("/v1/chat/completions", json=body)
        self.outcomes[row["id"]].append(self._outcome(row, response))

    def _outcome(self, row: Row, response: httpx.Response) -> str:
        answer = response.json()
        if response.status_code == 400:
            return f"refused: {answer['error']['param']}: {answer['error']['message'][:120]}"
        if response.status_code != 200:
            return f"ERROR {response.status_code}: {response.text[:200]}"
        choice = answer["choices"][0]
        self.tokens += answer["usage"]["completion_tokens"]
        self.closed += bool(choice.get("closed_within_budget"))
        if choice["finish_reason"] == "length" and not choice.get("closed_within_budget"):
            return "OVER the budget"
        failure = validate_json(choice["message"]["content"], row["schema"])
        return "valid" if failure is None else f"INVALID: {failure}"


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--max-tokens", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--limit", type=int, help="so many schemas, chosen and ordered by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write each schema's outcomes here, as JSON")
    options = parser.parse_args()
    rows = read(options.data)
    if options.limit:
        rows = random.Random(options.seed).sample(rows, options.limit)
    started = time.monotonic()
    async with httpx.AsyncClient(base_url=options.url, timeout=None) as client:
        run = Run(options, client)
        await asyncio.gather(
            *(run.sample(row, seed) for row in rows for seed in range(options.samples))
        )
    counts = collections.Counter(
        outcome.split(":")[0] for outcomes in run.outcomes.values() for outcome in outcomes
    )
    seconds = time.monotonic() - started
    print(f"{len(rows)} schemas, {options.samples} samples each: {dict(counts)}")
    print(f"{run.tokens} tokens, {run.closed} answers closed, {seconds:.0f} s")
    for name, outcomes in run.outcomes.items():
        for outcome in sorted(set(outcomes) - {"valid"}):
            print(f"  {name}: {outcome}")
    if options.out:
        options.out.write_text(json.dumps(run.outcomes, indent=1, sort_keys=True))
    return any(not (key == "valid" or key == "refused") for key in counts)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
