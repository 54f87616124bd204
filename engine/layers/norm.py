"""RMS normalization, alone or fused with the residual stream."""

from __future__ import annotations

import torch

from formgate.engine.layers.layer import Layer
from formgate.engine.layers.parameter import Loaded, WeightParameter, copy_weight, ones
from formgate.engine.layers.storage import Placement
from formgate.kernels.rms_norm import add_rms_norm, rms_norm


class RMSNorm(Layer):
    """`offset` is added to the checkpoint's weight on load (Gemma stores the weight minus 1)."""

    def __init__(self, size: int, eps: float, placement: Placement, *, offset: float = 0.0) -> None:
        super().__init__()
        self.eps = eps
        self.offset = offset
        # float32, because 1 + w in bfloat16 keeps only two digits of w.
        dtype = torch.float32 if offset else placement.dtype
        data = torch.empty(size, dtype=dtype, device=placement.device)
        self.weight = WeightParameter(data, dummy=ones)
        self.weight.weight_loader = self._load

    def _load(self, loaded: Loaded, shard: str | None) -> None:
        assert shard is None
        copy_weight(self.weight.data, loaded)
        if self.offset:
            self.weight.data.add_(self.offset)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [n, size] -> [n, size]"""
        normed: torch.Tensor = rms_norm(x, self.weight, self.eps)
        return normed

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(norm(x + residual), x + residual)"""
        normed: torch.Tensor
        summed: torch.Tensor
        normed, summed = add_rms_norm(x, residual, self.weight, self.eps)
        return normed, summed
