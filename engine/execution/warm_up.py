"""Compiles the kernels that take longest before anything else runs, many at a time: most of a
kernel's compilation is in LLVM and ptxas, which let go of Python's lock. A kernel that is left out
is compiled at its first launch, as all are without this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch

from formgate.engine.devices import usable_cpus
from formgate.engine.loading.weights import Progress
from formgate.engine.sampling.sampler import Sampler

MAX_THREADS = 16
Task = Callable[[], None]


def compile_kernels(tasks: Iterable[Task], progress: Progress) -> None:
    """Run each task in some thread, all of them to their end. Raises what a task raises."""
    tasks = list(tasks)
    stage = "compiling kernels"
    with ThreadPoolExecutor(min(usable_cpus(), MAX_THREADS), "compile-kernels") as pool:
        running = [pool.submit(torch.inference_mode()(task)) for task in tasks]
        for done, future in enumerate(running):
            progress(stage, done, len(running))
            future.result()
    progress(stage, len(tasks), len(tasks))


def sampler_tasks(sampler: Sampler, vocab_size: int, device: torch.device) -> Iterator[Task]:
    logits = torch.zeros((1, vocab_size), device=device)
    bitmask = torch.zeros((1, -(-vocab_size // 32)), dtype=torch.int32, device=device)
    # Of a mask that forbids everything nothing is sampled here: the tasks run side by side.
    yield partial(sampler.warm_up, logits.clone(), bitmask)
    yield partial(sampler.warm_up_limits, logits, top_p=True)
    yield partial(sampler.warm_up_limits, logits, top_p=False)
