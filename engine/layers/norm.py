"""Normalization, alone or together with the residual stream."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from formgate.engine.layers.layer import Layer
from formgate.engine.layers.parallel import Slice
from formgate.engine.layers.parameter import (
    Loaded,
    WeightParameter,
    WeightShapeError,
    copy_weight,
    ones,
)
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


class LayerNorm(Layer):
    """Layer normalization (arXiv:1607.06450) with a weight and no bias, as Cohere's models have."""

    def __init__(self, size: int, eps: float, placement: Placement) -> None:
        super().__init__()
        self.eps = eps
        data = torch.empty(size, dtype=placement.dtype, device=placement.device)
        self.weight = WeightParameter(data, dummy=ones)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [n, size] -> [n, size]"""
        return F.layer_norm(x, self.weight.shape, self.weight, eps=self.eps)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(norm(x + residual), x + residual)"""
        summed = x + residual
        normed: torch.Tensor = self(summed)
        return normed, summed


class HeadsNorm(Layer):
    """RMS normalization over all heads of a query or key together, which may lie on several ranks.
    `part`: this rank's features; neighbouring ranks hold the same ones where there are fewer heads
    than ranks.
    """

    def __init__(self, part: Slice, eps: float, placement: Placement) -> None:
        super().__init__()
        self.part = part
        self.eps = eps
        self.parallel = placement.parallel
        data = torch.empty(part.length, dtype=placement.dtype, device=placement.device)
        self.weight = WeightParameter(data, dummy=ones)
        self.weight.weight_loader = self._load
        # All ranks' slices together hold each feature this many times.
        self.copies = part.length * self.parallel.size // part.full

    def _load(self, loaded: Loaded, shard: str | None) -> None:
        assert shard is None
        if tuple(loaded.shape) != (self.part.full,):
            raise WeightShapeError(loaded.shape, (self.part.full,))
        copy_weight(self.weight.data, loaded.narrow(0, self.part.start, self.part.length))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [n, features of this rank] -> the same shape"""
        if self.parallel.is_alone:
            normed: torch.Tensor = rms_norm(x, self.weight, self.eps)
            return normed
        wide = x.float()
        squares = self.parallel.all_reduce(wide.square().sum(dim=-1, keepdim=True))
        scale = torch.rsqrt(squares / (self.part.full * self.copies) + self.eps)
        return (wide * scale * self.weight.float()).to(x.dtype)
