"""A seeded request on a CPU has the same answer alone, in company, and with its prompt cached."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.serve


def asked(number: int) -> dict[str, Any]:
    """Seeded requests of several lengths, some of them with a constraint of their own."""
    words = " ".join(f"word{number}x{i}" for i in range((7, 40, 60)[number % 3]))
    body: dict[str, Any] = {
        "prompt": f"{words}: ",
        "max_tokens": 20,
        "temperature": 1.0,
        "seed": number,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    if number % 4 == 3:
        schema = {"type": "object", "properties": {f"a{number}": {"type": "string"}}}
        return {**body, "ignore_eos": False, "structured_outputs": {"json": schema}}
    return body


def test_the_same_seed_gives_the_same_tokens_in_any_company(serve: Callable[..., Any]) -> None:
    server = serve("--dtype", "float32", "--max-model-len", "1024")
    with httpx.Client(timeout=240) as client, ThreadPoolExecutor(6) as threads:

        def tokens(number: int) -> list[int]:
            answer = client.post(server.url + "/v1/completions", json=asked(number))
            assert answer.status_code == 200, answer.text
            return answer.json()["choices"][0]["token_ids"]

        together = list(threads.map(tokens, range(6)))
        alone = [tokens(number) for number in (2, 3)]  # the longest, and one with a constraint
        again = list(threads.map(tokens, reversed(range(6))))
    assert alone == together[2:4]
    assert again[::-1] == together
