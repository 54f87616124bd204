"""How long heavy requests hold up a server: `/health` is asked every 20 ms beside each of them, and
the longest wait is printed. Usage: heavy_requests.py BASE_URL [NAME ...]
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass

PROBE_SECONDS = 0.02
BODY_BYTES = 8 * 1024 * 1024 - 1024
USER = [{"role": "user", "content": "x"}]
PROSE = "The quick brown fox jumps over the lazy dog 123, {x}. "


@dataclass
class Waits:
    longest: float = 0.0
    failed: int = 0


def ask(address: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=120)
    try:
        connection.request("GET" if body is None else "POST", path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def probe(address: str, stop: threading.Event, waits: Waits) -> None:
    connection = http.client.HTTPConnection(address, timeout=120)
    while not stop.is_set():
        began = time.perf_counter()
        connection.request("GET", "/health")
        response = connection.getresponse()
        response.read()
        waits.failed += response.status != 200
        waits.longest = max(waits.longest, time.perf_counter() - began)
        time.sleep(PROBE_SECONDS)


def filled(opening: str, item: str, closing: str, separator: str = ",") -> str:
    """As many items as a body may hold bytes."""
    room = BODY_BYTES - len(opening) - len(closing)
    return opening + separator.join([item] * (room // (len(item) + len(separator)))) + closing


def requests() -> Iterator[tuple[str, str, str]]:
    chat, completions = "/v1/chat/completions", "/v1/completions"
    beside = '{"messages":' + json.dumps(USER) + ',"max_tokens":1,'
    yield "nothing", "/tokenize", '{"prompt": "x"}'
    yield "tokenize 8 MB", "/tokenize", json.dumps({"prompt": PROSE * (BODY_BYTES // len(PROSE))})
    yield "tokenize 1 MB", "/tokenize", json.dumps({"prompt": PROSE * (1_000_000 // len(PROSE))})
    yield (
        "tokenize 1 MB to texts",
        "/tokenize",
        json.dumps({"prompt": "x" * 1_000_000, "return_token_strs": True}),
    )
    yield "detokenize 1M ids", "/detokenize", json.dumps({"tokens": [500] * 1_000_000})
    for name, text in (
        ("prose", PROSE * (BODY_BYTES // len(PROSE))),
        ("one letter", "x" * 8_000_000),
    ):
        yield f"prompt of 8 MB, {name}", completions, json.dumps({"prompt": text})
        said = [{"role": "user", "content": text}]
        yield f"message of 8 MB, {name}", chat, json.dumps({"messages": said})
        cut = {"messages": said, "truncate_prompt_tokens": 100}
        yield f"truncated message of 8 MB, {name}", chat, json.dumps(cut)
    cut = {"prompt": PROSE * 18_000, "truncate_prompt_tokens": 100, "max_tokens": 1}
    yield "truncated prompt of 1 MB", completions, json.dumps(cut)
    typed = [{"role": "user", "content": PROSE * 1_000 + "<think>"}]
    yield "typed <think>", chat, json.dumps({"messages": typed, "max_tokens": 1})
    marks = [{"role": "user", "content": "<s>" * 2_500_000}]
    yield "special tokens", chat, json.dumps({"messages": marks})
    half = [{"role": "user", "content": "<" * 8_000_000}]
    yield "beginnings of special tokens", chat, json.dumps({"messages": half})
    yield "many messages", chat, filled('{"messages":[', '{"role":"user","content":"x"}', "]}")
    one = ",".join(['{"role":"user","content":"x"}'] * 10_000)
    yield "10,000 messages", chat, '{"messages":[' + one + "]}"
    parts = ",".join(['{"type":"text","text":"x"}'] * 4_096)
    message = '{"role":"user","content":[' + parts + "]}"
    yield "28,000 parts", chat, '{"messages":[' + ",".join([message] * 7) + "]}"
    yield (
        "28,000 parts, responses",
        "/v1/responses",
        '{"input":['
        + ",".join(
            [
                '{"role":"user","content":['
                + parts.replace('"text","text"', '"input_text","text"')
                + "]}"
            ]
            * 7
        )
        + "]}",
    )
    yield (
        "28,000 parts, messages",
        "/v1/messages",
        ('{"max_tokens":1,"messages":[' + ",".join([message] * 7) + "]}"),
    )
    yield "empty lists", chat, filled(beside + '"x":[', "[]", "]}")
    yield "100,000 lists", chat, beside + '"x":[' + ",".join(["[]"] * 99_000) + "]}"
    yield "members", chat, (beside + '"x":{' + ",".join(f'"k{i}":0' for i in range(99_000)) + "}}")
    yield "strings", completions, filled('{"prompt":[', '"a"', "]}")
    yield "bad ids", completions, filled('{"prompt":[', "-1", "]}")
    yield "ids", completions, filled('{"prompt":[', "5", "]}")
    yield "1M ids", completions, '{"prompt":[' + ",".join(["5"] * 999_000) + "]}"
    yield "lists of ids", completions, filled('{"prompt":[', "[5]", "]}")
    yield "long numbers", chat, filled(beside + '"x":[', "9" * 4300, "]}")
    yield (
        "a longer number",
        chat,
        filled(beside + '"y":' + "9" * 5000 + ',"x":[', "[1]", "]}")[:600_000],
    )
    yield "stop of 1 MB", chat, beside + '"stop":["' + "x" * 1_000_000 + '"]}'
    stops = [f"{i:03}".ljust(63, "x") for i in range(128)]
    yield "128 stop strings", chat, json.dumps({"messages": USER, "stop": stops, "max_tokens": 8})
    words = [f"w{i}" for i in range(1_000)]
    yield (
        "words and 2,048 prompts",
        completions,
        json.dumps({"prompt": ["a"] * 2_048, "bad_words": words, "max_tokens": 1}),
    )
    yield "2,048 prompts", completions, json.dumps({"prompt": ["a"] * 2_048, "max_tokens": 1})
    yield (
        "16 prompts, n of 128",
        completions,
        json.dumps({"prompt": ["a"] * 16, "n": 128, "max_tokens": 1}),
    )
    biased = {str(i): 1.0 for i in range(1_000)}
    yield (
        "bias and n of 128",
        chat,
        json.dumps({"messages": USER, "logit_bias": biased, "n": 128, "max_tokens": 1}),
    )
    allowed = {"messages": USER, "allowed_token_ids": list(range(6_000)), "n": 128, "max_tokens": 1}
    yield "allowed ids and n of 128", chat, json.dumps(allowed)
    alternatives = [f"answer {i}" for i in range(10_000)]
    yield (
        "10,000 alternatives",
        chat,
        json.dumps(
            {"messages": USER, "structured_outputs": {"choice": alternatives}, "max_tokens": 8}
        ),
    )
    yield (
        "tools of 8 MB",
        chat,
        json.dumps(
            {
                "messages": USER,
                "tools": [
                    {"type": "function", "function": {"name": f"f{i}", "description": "d" * 8_000}}
                    for i in range(1_000)
                ],
            }
        ),
    )


def main() -> None:
    address = urllib.parse.urlsplit(sys.argv[1]).netloc
    wanted = set(sys.argv[2:])
    worst = 0.0
    for name, path, text in requests():
        if wanted and name not in wanted:
            continue
        body, stop, waits = text.encode(), threading.Event(), Waits()
        prober = threading.Thread(target=probe, args=(address, stop, waits))
        prober.start()
        time.sleep(5 * PROBE_SECONDS)
        began = time.perf_counter()
        status, answer = ask(address, path, body)
        seconds = time.perf_counter() - began
        stop.set()
        prober.join()
        worst = max(worst, waits.longest)
        print(
            f"{name:34} {len(body) / 1e6:5.1f} MB  {status} in {seconds:6.2f} s, /health at most "
            f"{1000 * waits.longest:6.0f} ms{f', {waits.failed} failed' if waits.failed else ''}"
            f"  {answer[:110].decode(errors='replace') if status != 200 else ''}",
            flush=True,
        )
    print(f"longest wait: {1000 * worst:.0f} ms")


if __name__ == "__main__":
    main()
