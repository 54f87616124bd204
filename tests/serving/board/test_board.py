"""The Grafana board's queries, asked of a real Prometheus that scrapes a real server under load.
It runs where the program `prometheus` is installed, or FORMGATE_PROMETHEUS names it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.serving.conftest import Server, free_port

DEPLOY = Path(__file__).parents[3] / "deploy"
PROMETHEUS = os.environ.get("FORMGATE_PROMETHEUS") or shutil.which("prometheus")
DEADLINE = 120.0  # seconds until each query has an answer

MOOD = {"type": "object", "properties": {"mood": {"enum": ["good", "bad"]}}, "required": ["mood"]}
LOOSE_TOOL = {
    "name": "f",
    "parameters": {"type": "object", "properties": {"a": {"divisibleBy": 2}}},
}

pytestmark = [
    pytest.mark.serve,
    pytest.mark.skipif(PROMETHEUS is None, reason="needs the program prometheus"),
]


@pytest.fixture
def prometheus(server: Server, tmp_path: Path) -> Iterator[str]:
    """Its URL. The configuration is that of `deploy/`, with this server and a shorter interval."""
    config = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())
    config["global"]["scrape_interval"] = "1s"
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [server.url.removeprefix("http://")]}]
    file = tmp_path / "prometheus.yaml"
    file.write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                str(PROMETHEUS),
                f"--config.file={file}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    yield f"http://{address}"
    process.terminate()
    process.wait(30)


def load(server: Server) -> None:
    """Requests of each kind that the board shows."""
    formats: list[dict[str, Any]] = [
        {},
        {"response_format": form(MOOD)},
        {"response_format": form({"divisibleBy": 2})},  # refused
        {"tools": [{"type": "function", "function": LOOSE_TOOL}]},
    ]
    for more in formats:
        body = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 16} | more
        httpx.post(server.url + "/v1/chat/completions", json=body, timeout=120)


def form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def queries() -> list[str]:
    board = json.loads((DEPLOY / "grafana" / "boards" / "formgate.json").read_text())
    return [
        target["expr"].replace("$job", "formgate").replace("$__rate_interval", "1m")
        for panel in board["panels"]
        for target in panel.get("targets", ())
    ]


def answer_of(prometheus: str, query: str) -> list[Any]:
    """The series that a query finds; none before Prometheus listens."""
    try:
        response = httpx.get(prometheus + "/api/v1/query", params={"query": query}, timeout=30)
    except httpx.TransportError:
        return []
    said = response.json()
    if response.status_code != 503:  # it starts
        assert said["status"] == "success", (query, said)
    return list(said.get("data", {}).get("result", ()))


def test_each_query_of_the_board_finds_series(server: Server, prometheus: str) -> None:
    unanswered = queries()
    assert len(unanswered) > 25
    deadline = time.monotonic() + DEADLINE
    while unanswered and time.monotonic() < deadline:
        load(server)
        unanswered = [query for query in unanswered if not answer_of(prometheus, query)]
        time.sleep(0.5)
    assert not unanswered
