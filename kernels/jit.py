"""Imports triton for the kernels. Without triton (on macOS, for example) the modules still import
and their references run; launching a kernel raises RuntimeError.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import torch

__all__ = ["is_float_tensor", "tl", "triton"]


class _UnavailableKernel:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = function.__name__

    def __getitem__(self, grid: Any) -> NoReturn:
        raise RuntimeError(f"{self.name} needs triton, which is not installed")


class _NoTriton:
    """The parts of `triton` and `triton.language` that the kernel modules use when imported."""

    constexpr = object

    def jit(self, function: Callable[..., Any] | None = None, **options: Any) -> Any:
        return self.jit if function is None else _UnavailableKernel(function)


try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = _NoTriton()


def is_float_tensor(tensor: torch.Tensor) -> bool:
    """True if every kernel accepts the tensor's dtype."""
    return tensor.dtype in (torch.float32, torch.bfloat16, torch.float16)
