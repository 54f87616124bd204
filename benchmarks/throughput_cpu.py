"""formgate against `transformers.generate` on the same checkpoint, side by side in one run.

Sixteen prompts, greedy, a fixed number of new tokens each. transformers gets its best batched
setting: left padding, sdpa, every dtype tried, one warm-up, the median of the repeats. formgate is
measured through its server, HTTP and streaming included, and through the engine alone.

    python benchmarks/throughput_cpu.py [--model FOLDER] [--requests 16] [--tokens 128]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from serving import Client, running_server
from transformers import AutoModelForCausalLM, AutoTokenizer

from formgate import embedded

QUESTIONS = [
    "Write a short poem about the sea.",
    "What is the capital of France?",
    "Extract the information: John Smith, 30, software engineer",
    "Tell me a joke.",
    "你好，请介绍一下你自己。",
    "What can you do?",
    "A train travels 120 km in 1.5 hours. What is its average speed?",
    "Thank you very much!",
]


def transformers_rate(folder: Path, requests: int, tokens: int, repeats: int) -> dict[str, float]:
    """Tokens per second of `generate` by dtype."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    chats = [[{"role": "user", "content": QUESTIONS[i % len(QUESTIONS)]}] for i in range(requests)]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        seconds = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            out = model.generate(
                **inputs,
                do_sample=False,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                pad_token_id=tokenizer.pad_token_id,
            )
            seconds.append(time.perf_counter() - start)
        assert out.shape[1] - inputs["input_ids"].shape[1] == tokens
        rates[str(dtype).removeprefix("torch.")] = (
            requests * tokens / statistics.median(seconds[1:])
        )
    return rates


def formgate_rate(folder: Path, requests: int, tokens: int, repeats: int) -> float:
    """Tokens per second of the whole server, every answer streamed."""
    bodies = [
        {
            "messages": [{"role": "user", "content": QUESTIONS[i % len(QUESTIONS)]}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
        }
        for i in range(requests)
    ]
    with running_server(str(folder)) as url:
        client = Client(url)
        seconds = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            answers = client.at_once(bodies)
            seconds.append(time.perf_counter() - start)
            assert all(answer.completion_tokens == tokens for answer in answers)
    return requests * tokens / statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=embedded.path())
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    arguments = (options.model, options.requests, options.tokens, options.repeats)

    peer = transformers_rate(*arguments)
    ours = formgate_rate(*arguments)
    best = max(peer.values())
    print(
        json.dumps(
            {
                "requests": options.requests,
                "tokens_each": options.tokens,
                "threads": torch.get_num_threads(),
                "transformers_tok_s": {name: round(rate, 1) for name, rate in peer.items()},
                "formgate_server_tok_s": round(ours, 1),
                "times_faster": round(ours / best, 2),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
