"""The metrics of several HTTP processes as those of one server: each process serves its own on a
Unix socket, and the process that gets a `/metrics` request adds up all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from formgate.gateway.metrics import Metrics

END = "# EOF\n"  # ends a complete exposition; a process that dies meanwhile sends a part
# Values that are not summed, like those of names that end in `_info` or `_created`.
NO_SUMS = frozenset({"process_start_time_seconds", "process_max_fds"})
PEER_TIMEOUT = 2.0  # seconds; a process that is slower is left out of the sum


class SharedMetrics:
    def __init__(self, metrics: Metrics, own: Path, peers: Sequence[Path]) -> None:
        self._metrics = metrics
        self._own = own
        self._peers = peers
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        if self._peers:
            self._server = await asyncio.start_unix_server(self._tell, self._own)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def exposition(self) -> bytes:
        if not self._peers:
            return self._metrics.exposition()
        told = await asyncio.gather(*map(_ask, self._peers))
        return added_up([self._metrics.exposition().decode(), *filter(None, told)]).encode()

    async def _tell(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(self._metrics.exposition() + END.encode())
            await writer.drain()
        writer.close()


async def _ask(peer: Path) -> str | None:
    try:
        async with asyncio.timeout(PEER_TIMEOUT):
            reader, writer = await asyncio.open_unix_connection(peer)
            try:
                text = (await reader.read()).decode()
            finally:
                writer.close()
    except (OSError, TimeoutError):  # it is starting or stopping
        return None
    return text.removesuffix(END) if text.endswith(END) else None


def added_up(expositions: Iterable[str]) -> str:
    """Sum the samples with equal names and labels; for `NO_SUMS` and its like, keep the first."""
    families: dict[str, tuple[list[str], dict[str, float]]] = {}
    for text in expositions:
        about: list[str] = []
        samples: dict[str, float] = {}
        for line in text.splitlines():
            if line.startswith("# HELP "):
                about, samples = families.setdefault(line.split(" ", 3)[2], ([], {}))
            if line.startswith("#"):
                if line not in about:
                    about.append(line)
                continue
            key, _, value = line.rpartition(" ")
            name = key.partition("{")[0]
            if key not in samples:
                samples[key] = float(value)
            elif name not in NO_SUMS and not name.endswith(("_info", "_created")):
                samples[key] += float(value)
    lines = [
        line
        for about, samples in families.values()
        for line in (*about, *(f"{key} {value}" for key, value in samples.items()))
    ]
    return "\n".join(lines) + "\n"
