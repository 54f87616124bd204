"""What a server is while requests come: its processes, their memory, its metrics, and how long
`/health` takes.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

PAUSE = 0.05  # seconds between two questions
GAP = 0.5


def family(pid: int) -> dict[int, str]:
    """A process and all that descend from it, with their command lines."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue  # it has just ended
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: text for pid in sorted(found) if (text := _command(pid))}


def children(pid: int) -> dict[int, str]:
    """Of a process alone: a server's engine and its compile host."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    pids = [int(word) for task in listed.parents[1].iterdir() for word in _words(task / "children")]
    return {pid: text for pid in sorted(pids) if (text := _command(pid))}


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def resident_mb(pid: int) -> dict[int, float]:
    """Of each process of a family, in MB."""
    found = {}
    for member in family(pid):
        try:
            pages = int(Path(f"/proc/{member}/statm").read_text().split()[1])
        except OSError:
            continue
        found[member] = pages * 4096 / 2**20
    return found


def gauge(metrics: str, name: str) -> float:
    """The sum over the samples of one metric."""
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in metrics.splitlines()
        if line.startswith(name) and line[len(name)] in "{ "
    )


class HealthWatch:
    """Asks for `/health` again and again, in a thread of its own and on one connection.

    `gaps` holds the answers that took longer than GAP, and which requests were under way then.
    """

    def __init__(self, url: str, under_way: Collection[str] = ()) -> None:
        self._address = urlsplit(url).netloc
        self._under_way = under_way
        self.gaps: list[tuple[float, list[str]]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.longest = 0.0
        self.late = 0.0  # the longest that this thread itself waited for its turn
        self.wrong: list[str] = []

    def __enter__(self) -> HealthWatch:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            connection = http.client.HTTPConnection(self._address, timeout=30)
            try:
                self._ask(connection)
            except (OSError, http.client.HTTPException) as error:
                self.wrong.append(repr(error))
                self._stop.wait(1)
            finally:
                connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            connection.request("GET", "/health")
            response = connection.getresponse()
            response.read()
            answered = time.monotonic()
            self.longest = max(self.longest, answered - began)
            if answered - began > GAP:
                self.gaps.append((round(answered - began, 2), list(self._under_way)))
            if response.status != 200:
                self.wrong.append(f"status {response.status}")
            self._stop.wait(PAUSE)
            self.late = max(self.late, time.monotonic() - answered - PAUSE)
