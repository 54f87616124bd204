"""Fuzzes a running server and says what it did wrong.

    formgate serve --port 8000 --max-model-len 1024 &
    python -m tests.fuzz --pid $!                          # the full run
    python -m tests.fuzz --pid $! --seconds 120 --first 5000
    python -m tests.fuzz --replay finding.json             # one request again

Each request depends on `--seed` and its number alone, so that a run can be cut into slices. Each
kind of failure is written to `--out` once, with the smallest body that shows it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from pathlib import Path

import httpx

from tests.fuzz.bodies import Bodies, Case
from tests.fuzz.judge import wrong
from tests.fuzz.run import Run, idle_metrics, send, shrunk
from tests.fuzz.watch import HealthWatch, children, resident_mb

DESCRIBED, CONSTRAINTS = 20_000, 2_000
GAP_SECONDS = 1.0
GROWTH_MB = 300.0
SETTLING_SECONDS = 12.0  # a server returns freed memory to the system every 5


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--pid", type=int, help="of the server, to see its processes and memory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--described", type=int, default=DESCRIBED, help="requests by the API")
    parser.add_argument("--constraints", type=int, default=CONSTRAINTS, help="schemas, regexes")
    parser.add_argument("--first", type=int, default=0, help="number of the first of each")
    parser.add_argument("--seconds", type=float, help="start no request after so long")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--out", type=Path, help="folder for a file of each kind of failure")
    parser.add_argument("--replay", type=Path, nargs="+", help="such files, or one's case")
    return parser.parse_args()


async def replay(files: list[Path], url: str) -> int:
    failures = 0
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        for file in files:
            row = json.loads(file.read_text())
            case = Case.from_json(row.get("case", row))
            began = time.monotonic()
            answer = await send(client, case)
            kinds = list(wrong(case, answer))
            failures += bool(kinds)
            print(
                f"{file.name}: {answer.status} in {time.monotonic() - began:.2f} s, {kinds or 'ok'}"
            )
            print(f"  {case.method} {case.path} {case.content[:200]!r}\n  {answer.text[:500]!r}")
    return failures


async def fuzz(options: argparse.Namespace) -> int:
    failures: list[str] = []
    async with httpx.AsyncClient(base_url=options.url, timeout=60) as client:
        bodies = Bodies((await client.get("/openapi.json")).json(), options.seed)
        before = resident_mb(options.pid) if options.pid else {}
        parents = children(options.pid) if options.pid else {}
        run = Run(client, bodies, options.concurrency, options.seconds)
        with HealthWatch(options.url, run.under_way) as health:
            await run.all(options.first, options.described, options.constraints)
            metrics = await idle_metrics(client)
        await asyncio.sleep(SETTLING_SECONDS)
        print(f"{run.sent} requests, up to number {run.last}: {dict(sorted(run.statuses.items()))}")
        print(f"the client left {run.num_abandoned} requests before they were answered")
        print(f"slowest: {[(round(s, 2), n) for s, n in run.slowest]}")
        print(f"/health took up to {health.longest:.2f} s, its watch was {health.late:.2f} s late")
        for seconds, names in sorted(health.gaps, reverse=True)[:10]:
            print(f"  {seconds} s beside {names}")
        failures += [f"/health: {text}" for text in sorted(set(health.wrong))]
        if health.longest - health.late > GAP_SECONDS:
            failures.append(f"/health took {health.longest:.2f} s")
        failures += metrics
        if options.pid:
            after = resident_mb(options.pid)
            grown = sum(after.values()) - sum(before.values())
            print(f"memory: {sum(before.values()):.0f} MB before, {sum(after.values()):.0f} after")
            for pid in sorted(before.keys() | after.keys()):
                print(f"  {pid}: {before.get(pid, 0):.0f} -> {after.get(pid, 0):.0f} MB")
            if grown > GROWTH_MB:
                failures.append(f"memory has grown by {grown:.0f} MB")
            if children(options.pid) != parents or len(before) != len(after):
                failures.append(f"processes: {parents} are {children(options.pid)}")
        for kind, found in sorted(run.found.items()):
            name, case, answer = found[0]
            print(f"\n{kind}: {len(found)} times, first by {name}")
            smallest = await shrunk(client, case, kind)
            print(f"  {smallest.method} {smallest.path} {smallest.content[:300]!r}")
            print(f"  {answer.status} {answer.text[:300]!r}")
            if options.out:
                options.out.mkdir(exist_ok=True)
                row = {"kind": kind, "name": name, "times": len(found), "seed": options.seed}
                row["others"] = [other for other, _, _ in found[1:20]]
                row |= {"case": smallest.to_json(), "answer": answer.text[:1000]}
                row["status"] = answer.status
                file = re.sub(r"\W+", "-", kind)[:80].strip("-") + ".json"
                (options.out / file).write_text(json.dumps(row, indent=1))
        failures += run.found
    print("\n" + ("\n".join(failures) or "nothing is wrong"))
    return len(failures)


def main() -> int:
    options = arguments()
    if options.replay:
        return asyncio.run(replay(options.replay, options.url))
    return asyncio.run(fuzz(options))


if __name__ == "__main__":
    sys.exit(min(main(), 1))
