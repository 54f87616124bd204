"""Every example runs as it stands against the real server and gives a true answer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.serve

EXPECTED = {
    "chat.py": ["formgate", "Paris"],
    "stream.py": ["spring", "tokens in"],
    "completions.py": ["San Francisco is a city"],
    "tools.py": ["get_weather({'city': 'Paris'", "get_weather({'city': '巴黎'", "22"],
    "extract.py": [
        "Person(name='John Smith', age=30, occupation='software engineer')",
        "Person(name='张伟', age=30, occupation='软件工程师')",
    ],
    "reasoning.py": ["(thinks) ", "80"],
    "server.py": ["health 200", "back 'Hello, 世界!'", "docs 200", "vllm:num_requests_running"],
    "python_api.py": [
        "Person(name='John Smith', age=30, occupation='software engineer')",
        "Person(name='张伟', age=30, occupation='软件工程师')",
        "Feeling.",
        "get_weather {'city': 'Paris'",
        "22",
    ],
    "chat.sh": ["Tokyo"],
    "lora.py": ["base: The capital of Spain", "pirate: Arr, matey!"],
}


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_example(server, name: str) -> None:
    if name == "lora.py":
        pytest.importorskip("peft")
    interpreter = "bash" if name.endswith(".sh") else sys.executable
    done = subprocess.run(
        [interpreter, EXAMPLES / name],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"FORMGATE_URL": server.url, "PYTHONUTF8": "1"},
    )
    assert done.returncode == 0, done.stderr
    for expected in EXPECTED[name]:
        assert expected in done.stdout, done.stdout
