"""The gate between the two products of an expert."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from formgate.kernels.jit import tl, triton

__all__ = ["PLAIN_GATE", "Gate", "gated_ref", "gated_tile", "gated_values"]


@dataclass(frozen=True, slots=True)
class Gate:
    """`silu(gate) * up` (SwiGLU, arXiv:2002.05202) or, with a `limit`, gpt-oss's
    `(up + 1) * gate * sigmoid(alpha * gate)`, where the gate is at most `limit` and the up
    projection within it on both sides.
    """

    alpha: float = 1.0
    limit: float = 0.0  # 0: the plain gate


PLAIN_GATE = Gate()


def gated_ref(product: torch.Tensor, gate: Gate) -> torch.Tensor:
    """product [n, 2 * d], gates first, then ups -> float32 or float64 [n, d]"""
    wide = product if product.dtype == torch.float64 else product.float()
    gates, ups = wide.chunk(2, dim=-1)
    if not gate.limit:
        return F.silu(gates) * ups
    gates, ups = gates.clamp(max=gate.limit), ups.clamp(-gate.limit, gate.limit)
    return (ups + 1) * gates * torch.sigmoid(gate.alpha * gates)


@triton.jit
def gated_values(gate, up, ALPHA: tl.constexpr, LIMIT: tl.constexpr) -> tl.tensor:
    """float32, of one shape"""
    if LIMIT > 0.0:
        gate = tl.minimum(gate, LIMIT)
        up = tl.minimum(tl.maximum(up, -LIMIT), LIMIT) + 1.0
        out = gate / (1.0 + tl.exp(-ALPHA * gate)) * up
    else:
        out = gate / (1.0 + tl.exp(-gate)) * up
    return out


@triton.jit
def gated_tile(
    acc, TILE: tl.constexpr, ROWS: tl.constexpr, ALPHA: tl.constexpr, LIMIT: tl.constexpr
) -> tl.tensor:
    """acc [2 * TILE, ROWS], gates first, then ups -> [TILE, ROWS]"""
    halves = tl.permute(tl.reshape(acc, (2, TILE, ROWS)), (1, 2, 0))
    gate, up = tl.split(halves)
    return gated_values(gate, up, ALPHA, LIMIT)
