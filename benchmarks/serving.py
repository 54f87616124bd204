"""A server under measurement and a client that times every streamed token."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class Answer:
    text: str = ""
    completion_tokens: int = 0
    first: float = 0.0  # seconds from the request to the first text
    last: float = 0.0
    gaps: list[float] = field(default_factory=list)

    @property
    def time_per_token(self) -> float:
        """Seconds from the first token to the last, over the tokens between."""
        return (self.last - self.first) / max(1, self.completion_tokens - 1)


@contextmanager
def running_server(*arguments: str, timeout: float = 300.0) -> Iterator[str]:
    """`formgate serve` with these arguments on a free port of this machine; yields its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "formgate.gateway", "--host", "127.0.0.1", "--port", str(port)),
            *("--disable-log-requests", "--model", *arguments),
        ],
        env=os.environ,
    )
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                if httpx.get(url + "/health").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the server did not start")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(30)


class Client:
    """Streams chat completions, some at once."""

    def __init__(self, url: str) -> None:
        self._url = url + "/v1/chat/completions"

    def at_once(self, bodies: list[dict[str, Any]]) -> list[Answer]:
        async def run() -> list[Answer]:
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(timeout=600, limits=limits) as client:
                return await asyncio.gather(*(self._one(client, body) for body in bodies))

        return asyncio.run(run())

    def whole_at_once(self, bodies: list[dict[str, Any]]) -> list[int]:
        """The same without streaming: the tokens of each answer."""

        async def one(client: httpx.AsyncClient, body: dict[str, Any]) -> int:
            response = await client.post(self._url, json=body)
            response.raise_for_status()
            return int(response.json()["usage"]["completion_tokens"])

        async def run() -> list[int]:
            async with httpx.AsyncClient(timeout=600) as client:
                return await asyncio.gather(*(one(client, body) for body in bodies))

        return asyncio.run(run())

    async def _one(self, client: httpx.AsyncClient, body: dict[str, Any]) -> Answer:
        answer = Answer()
        body = body | {"stream": True, "stream_options": {"include_usage": True}}
        start = time.perf_counter()
        async with client.stream("POST", self._url, json=body) as response:
            if response.status_code != 200:
                raise RuntimeError(f"{response.status_code}: {(await response.aread())[:300]!r}")
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise RuntimeError(chunk["error"]["message"])
                if chunk.get("usage"):
                    answer.completion_tokens = chunk["usage"]["completion_tokens"]
                for choice in chunk["choices"]:
                    if choice["delta"].get("content"):
                        now = time.perf_counter() - start
                        if answer.text:
                            answer.gaps.append(now - answer.last)
                        else:
                            answer.first = now
                        answer.last = now
                        answer.text += choice["delta"]["content"]
        return answer
