"""A mixture-of-experts layer on a CUDA device, step by step, in microseconds, beside the time that
its bytes take at the rate of a plain copy and its products at the rate of a large dense one.

    python benchmarks/experts.py
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from graph_time import graph_milliseconds

from formgate.kernels.experts.choose_experts import Choice, choose_experts
from formgate.kernels.experts.combine_experts import combine_experts
from formgate.kernels.experts.expert_linear import block_rows, expert_linear
from formgate.kernels.experts.gate import Gate
from formgate.kernels.experts.mxfp4 import BLOCK, GROUP, Mxfp4Experts
from formgate.kernels.experts.quantized_weights import ExpertWeights
from formgate.kernels.experts.sort_by_expert import sort_by_expert

# experts, chosen, hidden size, inner size of an expert
SHAPES = {
    "Mixtral 8x7B": (8, 2, 4096, 14336),
    "DeepSeek-V2-Lite": (64, 6, 2048, 1408),
    "Qwen3-30B-A3B": (128, 8, 2048, 768),
    "gpt-oss-20b, MXFP4": (32, 4, 2880, 2880),
}
TOKENS = (1, 8, 64, 256, 2048, 8192)
COPIES = 4  # layers of a graph, so that no weight stays in the L2 cache


def microseconds(work: Callable[[int], object]) -> float:
    def all_works() -> None:
        for i in range(COPIES):
            work(i)

    return graph_milliseconds(all_works, 7) * 1000 / COPIES


def copy_rate() -> float:
    """Bytes per microsecond, read and written."""
    x = torch.empty(1 << 30, device="cuda")
    y = torch.empty_like(x)
    return 2 * x.nbytes / microseconds(lambda i: y.copy_(x))


def product_rate() -> float:
    """Floating-point operations per microsecond."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / microseconds(lambda i: a @ b)


def dense_experts(experts: int, outputs: int, inputs: int) -> ExpertWeights:
    return torch.randn(experts, outputs, inputs, device="cuda", dtype=torch.bfloat16)


def mxfp4_experts(experts: int, outputs: int, inputs: int) -> ExpertWeights:
    blocks = (experts, -(-inputs // BLOCK), outputs, 16)
    words = torch.randint(-(1 << 31), 1 << 31, blocks, device="cuda").int()
    scales = torch.full((experts, inputs // GROUP, outputs), 120, device="cuda")
    return Mxfp4Experts(words, scales.to(torch.uint8))


def bias_of(weights: ExpertWeights) -> torch.Tensor:
    return torch.randn(weights.shape[:2], device="cuda", dtype=torch.bfloat16)


def measure(name: str, bytes_rate: float, flops_rate: float) -> None:
    experts, top_k, hidden, inner = SHAPES[name]
    four_bits = name.endswith("MXFP4")
    make = mxfp4_experts if four_bits else dense_experts
    gate_up = [make(experts, 2 * inner, hidden) for _ in range(COPIES)]
    down = [make(experts, hidden, inner) for _ in range(COPIES)]
    weight_bytes = 17 / 32 if four_bits else 2
    print(f"{name}\ntokens\tchoose\tsort\tgate, up\tdown\tsum\tall\tfloor")
    for tokens in TOKENS:
        times, used = layer_times(tokens, top_k, gate_up, down, clamped=four_bits)
        floor = max(
            used * 3 * inner * hidden * weight_bytes / bytes_rate,
            tokens * top_k * 3 * inner * hidden * 2 / flops_rate,
        )
        row = (*times, sum(times), floor)
        print(tokens, *(f"{time:.1f}" for time in row), sep="\t", flush=True)


def layer_times(
    tokens: int,
    top_k: int,
    gate_up: list[ExpertWeights],
    down: list[ExpertWeights],
    *,
    clamped: bool,
) -> tuple[list[float], int]:
    """Microseconds of each part, and the number of experts that were chosen. `clamped`: with
    gpt-oss's biases and gate.
    """
    experts, hidden, _ = down[0].shape
    up, out_args = {"top_k": top_k, "gated": True}, {"top_k": top_k, "gated": False}
    if clamped:
        up |= {"bias": bias_of(gate_up[0]), "gate": Gate(1.702, 7.0)}
        out_args |= {"bias": bias_of(down[0])}
    x = torch.randn(tokens, hidden, device="cuda", dtype=torch.bfloat16)
    logits = torch.randn(tokens, experts, device="cuda", dtype=torch.bfloat16)
    choice = Choice(top_k=top_k, renormalize=True)
    weights, chosen = choose_experts(logits, choice)
    block = block_rows(chosen.numel(), experts)
    order = sort_by_expert(chosen, experts, block)
    inside = expert_linear(x, gate_up[0], order, **up)
    out = expert_linear(inside, down[0], order, **out_args)
    works: list[Callable[[int], object]] = [
        lambda i: choose_experts(logits, choice),
        lambda i: sort_by_expert(chosen, experts, block),
        lambda i: expert_linear(x, gate_up[i], order, **up),
        lambda i: expert_linear(inside, down[i], order, **out_args),
        lambda i: combine_experts(out, weights, order),
    ]
    return [microseconds(work) for work in works], chosen.unique().numel()


def main() -> None:
    torch.manual_seed(0)
    rates = copy_rate(), product_rate()
    print(f"copy {rates[0] / 1e6:.2f} TB/s, product {rates[1] / 1e6:.0f} TFLOP/s")
    for name in SHAPES:
        measure(name, *rates)


if __name__ == "__main__":
    main()
