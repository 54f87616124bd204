"""Where the time of one decode step goes, on a CUDA device: the engine alone, without HTTP.

For each batch size: wall time of a step, device time by kind of kernel, what is left as gaps, and
the time of the step's matrix products alone (a graph of the model's own weights), which no engine
can beat. `--modes` compares graphs and overlap with the plain way; `--sampling` the samplers.

    python benchmarks/decode_step.py --model FOLDER [--batches 1 8 64 256] [--contexts 512]
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
from graph_time import graph_milliseconds
from torch.nn import functional

from formgate.engine.config import EngineConfig
from formgate.engine.engine import Engine
from formgate.engine.layers.linear import Linear
from formgate.engine.messages import AddRequest
from formgate.engine.sampling_params import SamplingParams

MODES = {
    "graphs+overlap": {},
    "graphs": {"async_scheduling": False},
    "overlap": {"enforce_eager": True},
    "plain": {"enforce_eager": True, "async_scheduling": False},
}
SAMPLING = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 1.0},
    "top_p": {"temperature": 1.0, "top_p": 0.95, "top_k": 50},
    "masked": {"temperature": 0.0},
}
# The first kind whose words a kernel's name holds; what no kind claims is a matrix product if it
# looks like cuBLAS's, else something else.
KINDS = {
    "attention": ("attend", "combine", "write_kv", "rotary"),
    "norms, gates": ("rms_norm", "silu_and_mul"),
    "products": ("gemm", "gemv", "cutlass", "nvjet", "sm90_", "splitk", "cublas", "linear"),
    "copies": ("memcpy", "memset"),
}


class AllowEverything:
    """A grammar at no cost: what is left is the price of masks as such."""

    closed = False

    def fill_bitmask(self, row: np.ndarray) -> bool:
        row.fill(-1)
        return True

    def accept(self, token_id: int) -> None:
        pass

    def forced_tokens(self) -> list[int]:
        return []

    def rollback(self, num_tokens: int) -> None:
        pass

    def is_terminated(self) -> bool:
        return False


class Load:
    """Keeps an engine decoding a batch of one size."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._names: list[str] = []
        self._count = 0

    def start(self, batch: int, context: int, sampling: str) -> None:
        rng = random.Random(batch)
        self._names = [f"{self._count}-{row}" for row in range(batch)]
        self._count += 1
        longest = self.engine.runner.max_model_len - context
        params = SamplingParams(max_tokens=longest, ignore_eos=True, **SAMPLING[sampling])
        for name in self._names:
            prompt = [rng.randrange(10, self.engine.runner.vocab_size) for _ in range(context)]
            constraint = "anything" if sampling == "masked" else None
            self.engine.add_request(AddRequest(name, prompt, params, constraint=constraint))
        decoding = 0
        while decoding < 5:
            stats = self.engine.step().stats
            decoding += stats.num_batched_tokens == batch == stats.num_running

    def steps(self, count: int) -> float:
        """Seconds of each of so many steps."""
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            self.engine.step()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / count

    def stop(self) -> None:
        self.engine.abort(self._names)
        while self.engine.has_work:
            self.engine.step()


def kind_of(kernel: str) -> str:
    name = kernel.lower()
    for kind, words in KINDS.items():
        if any(word in name for word in words):
            return kind
    return "sampling, rest"


def device_time(load: Load, count: int, names: dict[str, float]) -> dict[str, float]:
    """Milliseconds of a step by kind of kernel; adds each kernel's microseconds to `names`."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        load.steps(count)
    kinds = dict.fromkeys([*KINDS, "sampling, rest"], 0.0)
    for event in profile.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            time_us = event.device_time_total / count
            kinds[kind_of(event.name)] += time_us / 1000
            names[event.name[:90]] = names.get(event.name[:90], 0.0) + time_us
    return kinds


def products_alone(engine: Engine, batch: int) -> float:
    """Milliseconds of a step's matrix products in one graph."""
    model = engine.runner.model
    weights = [m.tensors["weight"] for m in model.modules() if isinstance(m, Linear)]
    weights.append(model.lm_head.tensors["weight"])
    inputs = {
        size: torch.randn(batch, size, device=engine.runner.device, dtype=engine.runner.dtype)
        for size in {weight.shape[1] for weight in weights}
    }

    def run() -> None:
        for weight in weights:
            functional.linear(inputs[weight.shape[1]], weight)

    with torch.inference_mode():
        return graph_milliseconds(run, 20)


def measure(options: argparse.Namespace, mode: str, report: dict[str, object]) -> None:
    config = EngineConfig(
        model_dir=options.model,
        load_format=options.load_format,
        max_model_len=options.max_model_len,
        max_num_seqs=max(options.batches),
        device="cuda",
        **MODES[mode],
    )
    start = time.perf_counter()
    engine = Engine(
        config, lambda text: AllowEverything(), progress=lambda stage, done, total: None
    )
    print(f"{mode}: ready after {time.perf_counter() - start:.1f} s", flush=True)
    load = Load(engine)
    for batch, context in itertools.product(options.batches, options.contexts):
        for sampling in options.sampling:
            load.start(batch, context, sampling)
            wall = min(load.steps(options.steps) for _ in range(2)) * 1000
            names: dict[str, float] = {}
            kinds = device_time(load, 10, names)
            load.stop()
            busy = sum(kinds.values())
            found = {
                "wall_ms": wall,
                "gaps_ms": wall - busy,
                "products_alone_ms": products_alone(engine, batch),
                "tokens_per_second": 1000 * batch / wall,
                **{f"{kind}_ms": value for kind, value in kinds.items()},
            }
            rounded = {name: round(value, 3) for name, value in found.items()}
            report[f"{mode}, batch {batch}, context {context}, {sampling}"] = rounded
            head = f"{mode:15} bs {batch:3} context {context:5} {sampling:11}"
            print(head, json.dumps(rounded), flush=True)
            if options.kernels:
                for name, time_us in sorted(names.items(), key=lambda item: -item[1])[:14]:
                    print(f"    {time_us:9.1f} us  {name}")
    engine.close()
    del engine, load
    gc.collect()
    torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--load-format", default="dummy")
    parser.add_argument("--max-model-len", type=int, default=8192)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--contexts", type=int, nargs="+", default=[512])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--sampling", nargs="+", choices=SAMPLING, default=["greedy"])
    parser.add_argument("--kernels", action="store_true", help="name the longest kernels")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report: dict[str, object] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    for mode in options.modes:
        measure(options, mode, report)
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
