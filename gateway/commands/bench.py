"""`formgate bench URL`: throughput and latencies of a server of OpenAI's API at rising
concurrency, as a table, JSON or a page with plots.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from formgate.gateway.commands.bench_load import REQUEST_TIMEOUT, Level, Plan, run_levels
from formgate.gateway.commands.bench_page import COLUMNS, cells, page
from formgate.gateway.commands.chat import response_format
from formgate.gateway.commands.inputs import CommandParser, InputError, json_of
from formgate.gateway.commands.running_server import first_model, headers_of

MOST_LEVELS = 32
MOST_CONCURRENCY = 1024
MOST_REQUESTS = 100_000  # of a level
MOST_WORDS = 100_000


def bench_command(words: Sequence[str]) -> int:
    """Measure. 0; 1: requests failed; 2: no server answers, or a wrong option."""
    options = _parser().parse_args(words)
    try:
        levels, plan = asyncio.run(_measured(options))
        if options.html is not None:
            _write(options.html, page(options.url, _about(plan), levels))
    except InputError as error:
        print(f"formgate: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    if options.json:
        settings = dataclasses.asdict(plan)
        report = {"url": options.url, "plan": settings, "levels": list(map(_plain, levels))}
        print(json.dumps(report, indent=2))
    else:
        _show(levels)
    return 1 if any(level.failed for level in levels) else 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="formgate bench",
        allow_abbrev=False,
        description="Measures a server of OpenAI's API with streamed chat completions.",
        epilog="The client takes one core: on a small machine, run it on another.",
    )
    parser.add_argument("url", metavar="URL", help="of the server, such as http://127.0.0.1:8000")
    parser.add_argument(
        "--concurrency",
        type=_levels,
        default=(1, 2, 4, 8, 16),
        metavar="N,N...",
        help="requests at once, one level after the other (default: 1,2,4,8,16)",
    )
    parser.add_argument(
        "--requests",
        type=_count(MOST_REQUESTS),
        metavar="N",
        help="of each level (default: four for each at once, at least 8)",
    )
    parser.add_argument(
        "--seconds",
        type=_count(3600),
        default=60,
        metavar="N",
        help="after which a level starts no further request (default: 60)",
    )
    parser.add_argument(
        "--prompt-words",
        type=_count(MOST_WORDS),
        default=64,
        metavar="N",
        help="random words in a prompt; no two share a prefix (default: 64)",
    )
    parser.add_argument(
        "--max-tokens", type=_count(1 << 20), default=128, metavar="N", help="(default: 128)"
    )
    parser.add_argument(
        "--ignore-eos", action="store_true", help="all answers have --max-tokens tokens"
    )
    parser.add_argument("--schema", metavar="FILE", help="a JSON Schema that answers satisfy")
    parser.add_argument("--model", metavar="NAME", help="of the server's models (default: first)")
    parser.add_argument(
        "--api-key", metavar="KEY", help="the server's key (or OPENAI_API_KEY in the environment)"
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots")
    return parser


def _count(most: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to {most}")
        return int(text)

    return count


def _levels(text: str) -> tuple[int, ...]:
    levels = tuple(map(_count(MOST_CONCURRENCY), text.split(",")))
    if len(levels) > MOST_LEVELS:
        raise argparse.ArgumentTypeError(f"more than {MOST_LEVELS} levels")
    return levels


async def _measured(options: argparse.Namespace) -> tuple[list[Level], Plan]:
    url = options.url.rstrip("/").removesuffix("/v1")
    if not url.startswith(("http://", "https://")):
        raise InputError(f"{options.url} is not a URL of http or https.")
    headers = headers_of(options.api_key)
    with httpx.Client(base_url=url, headers=headers, timeout=10.0) as client:
        model = options.model or first_model(client)
    body: dict[str, Any] = {"model": model, "max_tokens": options.max_tokens}
    if options.ignore_eos:
        body["ignore_eos"] = True
    if options.schema is not None:
        body["response_format"] = response_format(json_of(options.schema))
    plan = Plan(body, options.prompt_words, options.requests, options.seconds)
    most = max(options.concurrency)
    limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
    timeout = httpx.Timeout(REQUEST_TIMEOUT, pool=None)
    console = Console(stderr=True)
    levels: list[Level] = []
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=timeout, limits=limits
    ) as client:
        with console.status("warming up"):
            async for level in run_levels(client, plan, options.concurrency):
                levels.append(level)
                console.print(
                    f"{level.concurrency} at once: {level.tokens_per_second:.0f} tokens/s"
                )
    return levels, plan


def _about(plan: Plan) -> str:
    schema = ", by a JSON Schema" if "response_format" in plan.body else ""
    return (
        f"Model {plan.body['model']}: prompts of {plan.prompt_words} words, answers of at most "
        f"{plan.body['max_tokens']} tokens{schema}."
    )


def _write(path: Path, text: str) -> None:
    try:
        path.expanduser().write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}.") from None


def _plain(level: Level) -> dict[str, Any]:
    return dataclasses.asdict(level)


def _show(levels: Sequence[Level]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for level in levels:
        table.add_row(*cells(level), style="red" if level.failed else None)
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(table)
    if (error := next((level.error for level in levels if level.error), "")) != "":
        print(f"formgate: the first failure: {error}", file=sys.stderr)
