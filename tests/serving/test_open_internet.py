"""What clients of one real server may learn of each other, and how long a request may wait."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.serve

PROMPT = "The prefix cache holds blocks of tokens that several prompts begin with. " * 6


def cached_tokens(url: str, key: str, **fields: Any) -> int:
    body = {"prompt": PROMPT, "max_tokens": 1} | fields
    response = httpx.post(url, json=body, headers={"x-api-key": key}, timeout=60)
    return int(response.json()["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_keys_are_apart_and_a_queue_has_an_age(serve) -> None:
    server = serve(*("--api-key", "a", "b", "--max-num-seqs", "1", "--max-queue-seconds", "0.3"))
    url = server.url + "/v1/completions"
    assert cached_tokens(url, "a") == 0
    assert (shared := cached_tokens(url, "a")) > 0
    assert cached_tokens(url, "b") == 0
    assert cached_tokens(url, "b") == shared
    assert cached_tokens(url, "a", cache_salt="mine") == 0

    endless = {"prompt": "a", "max_tokens": 1000, "ignore_eos": True, "stream": True}
    with httpx.Client(headers={"x-api-key": "a"}, timeout=60) as client:
        with client.stream("POST", url, json=endless) as running:
            lines = running.iter_lines()  # kept: httpx closes the answer of one that is dropped
            assert next(lines).startswith("data: {")
            late = client.post(url, json={"prompt": "a", "max_tokens": 1})
            assert late.status_code == 503
            assert late.json()["error"]["code"] == "queue_timeout"
            assert late.headers["retry-after"] == "1"
        assert client.post(url, json={"prompt": "a", "max_tokens": 1}).status_code == 200
