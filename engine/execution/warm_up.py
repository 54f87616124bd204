"""Compiles the slowest kernels at start, in parallel threads: most of a compilation is in LLVM and
ptxas, which release the GIL. A kernel left out here is compiled at its first launch.
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


def compile_kernels(
    tasks: Iterable[Task], progress: Progress, device: torch.device | None = None
) -> None:
    """Run every task in a thread pool and wait for all. `device`: the GPU that kernels are launched
    on, which each thread would choose anew. Raises the first task's exception.
    """
    tasks = list(tasks)
    stage = "compiling kernels"
    threads = min(usable_cpus(), MAX_THREADS)
    enter = None if device is None else partial(torch.cuda.set_device, device)
    with ThreadPoolExecutor(threads, "compile-kernels", initializer=enter) as pool:
        running = [pool.submit(torch.inference_mode()(task)) for task in tasks]
        for done, future in enumerate(running):
            progress(stage, done, len(running))
            future.result()
    progress(stage, len(tasks), len(tasks))


def sampler_tasks(sampler: Sampler, vocab_size: int, device: torch.device) -> Iterator[Task]:
    """Launches that compile the sampler's kernels."""
    logits = torch.zeros((1, vocab_size), device=device)
    bitmask = torch.zeros((1, -(-vocab_size // 32)), dtype=torch.int32, device=device)
    # Masking works on a clone, because the tasks run in parallel and the mask forbids everything.
    yield partial(sampler.warm_up, logits.clone(), bitmask)
    yield partial(sampler.warm_up_limits, logits, top_p=True)
    yield partial(sampler.warm_up_limits, logits, top_p=False)
