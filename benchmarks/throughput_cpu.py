"""formgate against `transformers.generate` on the same checkpoint, side by side in one run.

Sixteen prompts, greedy, no answer streamed. transformers gets its best batched setting: left
padding, sdpa, every dtype tried, one warm-up, the median of the repeats. formgate is measured
through its server and HTTP. Two workloads: answers of a fixed length, and answers that end where
the model ends them, of which only the tokens up to the end count.

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


def chats(requests: int) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": QUESTIONS[i % len(QUESTIONS)]}] for i in range(requests)]


def transformers_rate(
    folder: Path, requests: int, tokens: int, repeats: int, *, fixed: bool
) -> dict[str, float]:
    """Tokens per second of `generate` by dtype."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    inputs = tokenizer.apply_chat_template(
        chats(requests),
        add_generation_prompt=True,
        padding=True,
        return_tensors="pt",
        return_dict=True,
    )
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        per_second = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            out = model.generate(
                **inputs,
                do_sample=False,
                min_new_tokens=tokens if fixed else None,
                max_new_tokens=tokens,
                pad_token_id=tokenizer.pad_token_id,
            )
            seconds = time.perf_counter() - start
            made = out[:, inputs["input_ids"].shape[1] :]
            # The end token and what pads behind it are the same id: count the first of them.
            counts = (made != tokenizer.eos_token_id).sum(1) + 1
            total = requests * tokens if fixed else int(counts.clamp(max=tokens).sum())
            per_second.append(total / seconds)
        rates[str(dtype).removeprefix("torch.")] = statistics.median(per_second[1:])
    return rates


def formgate_rate(url: str, requests: int, tokens: int, repeats: int, *, fixed: bool) -> float:
    """Tokens per second of the whole server."""
    bodies = [
        {"messages": messages, "max_tokens": tokens, "ignore_eos": fixed, "temperature": 0}
        for messages in chats(requests)
    ]
    client = Client(url)
    per_second = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        counts = client.whole_at_once(bodies)
        per_second.append(sum(counts) / (time.perf_counter() - start))
        assert not fixed or counts == [tokens] * requests
    return statistics.median(per_second[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=embedded.path())
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    size = (options.requests, options.tokens, options.repeats)
    peers = {fixed: transformers_rate(options.model, *size, fixed=fixed) for fixed in (True, False)}
    with running_server(str(options.model)) as url:
        ours = {fixed: formgate_rate(url, *size, fixed=fixed) for fixed in (True, False)}
    report = {"requests": options.requests, "max_tokens": options.tokens}
    for fixed, name in ((True, "fixed_length"), (False, "natural_end")):
        peer = peers[fixed]
        report[name] = {
            "transformers_tok_s": {dtype: round(rate, 1) for dtype, rate in peer.items()},
            "formgate_tok_s": round(ours[fixed], 1),
            "times_faster": round(ours[fixed] / max(peer.values()), 2),
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
