"""Trains the embedded model from scratch on a stream of generated conversations.

    python -m training.train --seconds 500 --out $OUT      (one CUDA device, about 14 CPU cores)
    python -m training.train --join $OUT --out embedded    (shards -> the shipped folder)

The learning rate follows the clock, so that a run ends annealed whatever the machine's speed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from training.generate.mixture import rows
from training.model import Llama, Shape, document_mask, load_shards, save, save_shards
from training.optimizer import optimizers

Arrays = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
TARGET_SHARE = 0.5  # of a batch's tokens; room for the loss's fixed-size gather


def batch_of(stream: Iterator[tuple[NDArray[np.uint16], NDArray[np.bool_]]], count: int) -> Arrays:
    """tokens [rows, length]; at, wanted [rows * length * TARGET_SHARE]."""
    picked = [next(stream) for _ in range(count)]
    tokens = np.stack([t for t, _ in picked]).astype(np.int64)
    target = np.stack([t for _, t in picked])
    length = tokens.shape[1]
    row, column = np.nonzero(target[:, 1:])
    size = int(tokens.size * TARGET_SHARE)
    row, column = row[:size], column[:size]
    at, wanted = np.zeros(size, np.int64), np.full(size, -100, np.int64)
    at[: len(row)] = row * length + column
    wanted[: len(row)] = tokens[row, column + 1]
    return tokens, at, wanted


def produce(
    sink: multiprocessing.Queue[Arrays], tokenizer: str, seed: int, count: int, length: int
) -> None:
    stream = rows(seed, Tokenizer.from_file(tokenizer), length)
    while True:
        sink.put(batch_of(stream, count))


def feed(source: multiprocessing.Queue[Arrays], device: torch.device) -> Iterator[list[Tensor]]:
    """Batches on the device, copied ahead by a thread."""
    ready: queue.Queue[list[Tensor]] = queue.Queue(maxsize=4)

    def ahead() -> None:
        while True:
            tensors = [torch.from_numpy(array) for array in source.get()]
            if device.type == "cuda":
                tensors = [t.pin_memory().to(device, non_blocking=True) for t in tensors]
            ready.put(tensors)

    threading.Thread(target=ahead, daemon=True).start()
    while True:
        yield ready.get()


def rate(progress: float, step: int) -> float:
    """Share of the peak learning rate: short warm-up, plateau, then linearly to zero."""
    return min(1.0, (step + 1) / 60) * min(1.0, max(0.0, (1 - progress) / 0.65))


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = Shape()
    model = Llama(shape).to(device)
    if options.resume:
        model.load_state_dict({k: v.float() for k, v in load_shards(options.resume).items()})
    context = multiprocessing.get_context("spawn")
    sink: multiprocessing.Queue[Arrays] = context.Queue(maxsize=3 * options.workers)
    workers = [
        context.Process(
            target=produce,
            args=(sink, options.tokenizer, options.seed * 1000 + n, options.rows, options.length),
            daemon=True,
        )
        for n in range(options.workers)
    ]
    for worker in workers:
        worker.start()
    both = optimizers(model, options.peak)
    loss_of = torch.compile(model.loss) if device.type == "cuda" else model.loss
    batches = feed(sink, device)
    start = saved = time.time()
    begun, seen, step, mean = start, 0, 0, 0.0
    while True:
        now = time.time()
        if step == 5:
            begun = now  # compilation is not training
        progress = (now - begun) / options.seconds if step >= 5 else 0.0
        if progress >= 1 or step == options.steps or now - start > options.limit:
            break
        for optimizer in both:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate(progress, step)
        tokens, at, wanted = next(batches)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_of(tokens, document_mask(tokens), at, wanted)
        loss.backward()
        for optimizer in both:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seen, step = seen + tokens.numel(), step + 1
        if step % options.log == 0:
            mean = loss.item()
            print(
                f"step {step} loss {mean:.4f} tokens {seen / 1e6:.1f}M "
                f"{now - start:.0f}s {seen / (now - start) / 1e3:.0f}k/s queue {sink.qsize()}",
                flush=True,
            )
        if time.time() - saved > 100:
            save_shards(model.state_dict(), options.out)
            saved = time.time()
    for worker in workers:
        worker.terminate()
    save_shards(model.state_dict(), options.out)
    print(
        f"trained: {step} steps, {seen / 1e6:.0f}M tokens, {time.time() - start:.0f}s", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--join", type=Path, help="only turn these shards into a Hugging Face folder"
    )
    parser.add_argument("--resume", type=Path, help="start from these shards")
    parser.add_argument("--tokenizer", default="embedded/tokenizer.json")
    parser.add_argument("--seconds", type=float, default=500)
    parser.add_argument("--limit", type=float, default=1e9, help="seconds, compilation included")
    parser.add_argument("--steps", type=int, default=-1)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--peak", type=float, default=1.0, help="of both learning rates")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", type=int, default=50)
    options = parser.parse_args()
    if options.join:
        save(load_shards(options.join), Shape(), options.out)
    else:
        train(options)


if __name__ == "__main__":
    main()
