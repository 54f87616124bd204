"""Dense weights repacked for oneDNN, which multiplies small batches on a CPU in about half the time
of the plain matrix (figures in docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from formgate.engine.layers.storage import DenseMethod, LinearMethod


@dataclass(frozen=True, slots=True)
class PackedMethod(DenseMethod):
    """The blocked layout is chosen for a decode batch; it serves every batch size."""

    batch_hint: int = 16

    def finish_loading(self, tensors: dict[str, torch.Tensor]) -> None:
        tensors["weight"] = torch.ops.mkldnn._reorder_linear_weight(
            tensors["weight"], self.batch_hint
        )

    def apply(self, tensors: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, tensors["weight"], tensors.get("bias"), "none", [], ""
        )
        return out


def linear_method_for(dtype: torch.dtype, device: torch.device) -> LinearMethod:
    """How unquantized weights are best stored there."""
    packs = (
        device.type == "cpu"
        and dtype is torch.float32
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
    return PackedMethod() if packs else DenseMethod()
