"""Where the kernels get triton from. Without it (macOS, say) the modules still import and their
references run; only launching a kernel fails.
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
    """As much of `triton` and `triton.language` as module bodies touch when they are imported."""

    constexpr = object

    def jit(self, function: Callable[..., Any] | None = None, **options: Any) -> Any:
        return self.jit if function is None else _UnavailableKernel(function)


try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = _NoTriton()


def is_float_tensor(tensor: torch.Tensor) -> bool:
    """One of the types that every kernel takes."""
    return tensor.dtype in (torch.float32, torch.bfloat16, torch.float16)
