"""CUDA graphs: the batch shapes that get one, their capture and replay. On a CPU, where no graph is
captured, a static shape's work runs eagerly over the same tensors.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from formgate.engine.loading.weights import Progress
from formgate.engine.step import SHORT_QUERY, BatchShape

SMALL_BATCHES = (1, 2, 4)
BATCH_STEP = 8
SHORT_QUERY_BATCHES = (1, 2, 4, 8)
# Token counts of mixed batches: decode rows with a short prompt, or with many forced tokens.
MIXED_TOKENS = (64, 128, 192, 256, 384, 512)
# Device memory of a graph of a few hundred kernels, without the shared pool.
BYTES_PER_GRAPH = 8 << 20


def decode_batches(max_batch: int) -> list[int]:
    """1, 2, 4, 8, 16, 24, ... max_batch"""
    sizes = {size for size in SMALL_BATCHES if size < max_batch}
    sizes.update(range(BATCH_STEP, max_batch, BATCH_STEP))
    return sorted(sizes | {max_batch}) if max_batch else []


def static_shapes(max_batch: int, *, adapters: bool = False) -> list[BatchShape]:
    """All static shapes. `max_batch`: the largest decode batch with a static shape; 0: none.

    `adapters`: each shape also comes with the adapters of the rows. A batch without any then runs
    no kernel more than on a server without adapters: even kernels that have nothing to do would
    cost it some per cent.
    """
    shapes = {BatchShape(size, size, 1) for size in decode_batches(max_batch)}
    shapes.update(
        BatchShape(size * SHORT_QUERY, size, SHORT_QUERY)
        for size in SHORT_QUERY_BATCHES
        if size <= max_batch
    )
    shapes.update(
        BatchShape(tokens, min(tokens, max_batch), tokens) for tokens in MIXED_TOKENS if max_batch
    )
    if adapters:
        shapes.update([replace(shape, adapters=True) for shape in shapes])
    return sorted(shapes)


class StaticShapes:
    """Runs batches of static shapes. `compute` does a shape's work on its static tensors and
    allocates nothing that outlives the call. All graphs share one memory pool, so only one may run
    at a time.
    """

    def __init__(self, shapes: Iterable[BatchShape], compute: Callable[[BatchShape], None]) -> None:
        self._shapes = sorted(shapes, reverse=True)  # largest first, so the others reuse its memory
        self._compute = compute
        self._graphs: dict[BatchShape, torch.cuda.CUDAGraph] = {}

    def __len__(self) -> int:
        return len(self._shapes)

    @property
    def shapes(self) -> tuple[BatchShape, ...]:
        return tuple(self._shapes)

    def capture(self, progress: Progress) -> None:
        """Capture a graph for each shape; `run` replays it from then on."""
        if not self._shapes:
            return
        with _no_collection():
            self._capture_all(progress)

    def _capture_all(self, progress: Progress) -> None:
        pool = torch.cuda.graph_pool_handle()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        for done, shape in enumerate(self._shapes):
            progress("capturing CUDA graphs", done, len(self._shapes))
            self._compute(shape)  # compile and autotune now; a capture allows neither
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=stream):
                self._compute(shape)
            self._graphs[shape] = graph
        progress("capturing CUDA graphs", len(self._shapes), len(self._shapes))

    def run(self, shape: BatchShape) -> None:
        graph = self._graphs.get(shape)
        if graph is None:
            self._compute(shape)
        else:
            graph.replay()


@contextmanager
def _no_collection() -> Iterator[None]:
    """Disable garbage collection: freeing an earlier engine's graphs would break a capture."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
