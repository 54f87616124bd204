"""The gated MLP: gate and up in one product, the activation fused with the gating."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from formgate.engine.layers.layer import Layer
from formgate.engine.layers.linear import MergedColumnLinear, RowLinear
from formgate.engine.layers.storage import Placement
from formgate.kernels.silu_and_mul import silu_and_mul


def gelu_tanh_and_mul(x: torch.Tensor) -> torch.Tensor:
    """x [n, 2 * d], gate first -> [n, d]"""
    gate, up = x.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh") * up


# Hugging Face's name of an activation -> the fused function of [gate, up].
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": silu_and_mul,
    "gelu_pytorch_tanh": gelu_tanh_and_mul,
}


class GatedMLP(Layer):
    """`summed`: whether the ranks' results are summed, or left to the caller to sum."""

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        *,
        activation: str,
        bias: bool,
        placement: Placement,
        summed: bool = True,
    ) -> None:
        super().__init__()
        self.gate_up_proj = MergedColumnLinear(
            hidden_size,
            {"gate": intermediate_size, "up": intermediate_size},
            bias=bias,
            placement=placement.inside("gate_up_proj"),
        )
        self.down_proj = RowLinear(
            intermediate_size,
            hidden_size,
            bias=bias,
            placement=placement.inside("down_proj"),
            summed=summed,
        )
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [n, hidden_size] -> [n, hidden_size]"""
        gated = self.activation(self.gate_up_proj(x))
        out: torch.Tensor = self.down_proj(gated)
        return out
