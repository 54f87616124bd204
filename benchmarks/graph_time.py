"""The device's time for some work, without the CPU's: as a CUDA graph, replayed."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch


def graph_milliseconds(work: Callable[[], None], repeats: int) -> float:
    """The median of so many replays. The work runs once before, to be compiled."""
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    times = []
    for _ in range(repeats):
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)
