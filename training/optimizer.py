"""Muon for the matrices of the layers (orthogonalized momentum, batched over equal shapes) and
AdamW for the embedding and the norms.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn


def orthogonalize(batch: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices by five Newton-Schulz steps; batch: [n, rows, columns]
    with rows <= columns (K. Jordan, "Muon", 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = batch.bfloat16() if batch.is_cuda else batch
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.float()


class Muon(torch.optim.Optimizer):
    def __init__(
        self, params: list[nn.Parameter], lr: float, momentum: float, decay: float
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})
        shapes: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
        for p in params:
            shapes[(min(p.shape), max(p.shape))].append(p)
        self.stacks = list(shapes.values())
        self.velocity = [
            torch.zeros(len(s), *_wide(s[0]).shape, device=s[0].device) for s in self.stacks
        ]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        group = self.param_groups[0]
        for stack, velocity in zip(self.stacks, self.velocity, strict=True):
            gradient = torch.stack([_wide(p.grad) for p in stack if p.grad is not None])
            velocity.lerp_(gradient, 1 - group["momentum"])
            update = orthogonalize(gradient.lerp(velocity, group["momentum"]))  # Nesterov
            for p, u in zip(stack, update.unbind(), strict=True):
                u = u if u.shape == p.shape else u.mT
                p.mul_(1 - group["lr"] * group["decay"])
                p.add_(u, alpha=-group["lr"] * max(1.0, p.size(0) / p.size(1)) ** 0.5)


def _wide(p: Tensor) -> Tensor:
    return p if p.size(0) <= p.size(1) else p.mT


def optimizers(model: nn.Module, scale: float) -> list[torch.optim.Optimizer]:
    """Both optimizers; every group's `peak` is the rate that the schedule scales."""
    matrices, rest = [], []
    for name, p in model.named_parameters():
        (matrices if p.ndim == 2 and "embed" not in name else rest).append(p)
    fused = rest[0].is_cuda
    found: list[torch.optim.Optimizer] = [
        Muon(matrices, 0.02 * scale, 0.95, 0.02),
        torch.optim.AdamW(rest, 0.003 * scale, (0.9, 0.95), weight_decay=0.0, fused=fused),
    ]
    for optimizer in found:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return found
