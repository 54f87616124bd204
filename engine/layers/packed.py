"""Dense weights repacked for CPUs, where reading the weights from memory bounds a decode step.
Measurements are in docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from formgate.engine.layers.storage import DenseMethod, LinearMethod

# float16 holds bfloat16 weights exactly, except the last bits of the smallest ones.
MAX_ROUNDING = 2.0**-24


@dataclass(frozen=True, slots=True)
class PackedMethod(DenseMethod):
    """Computes in float32. A weight that float16 can hold is stored as float16 for FBGEMM; any
    other is stored in oneDNN's blocked layout, tuned for `batch_hint` rows but valid for all.
    """

    batch_hint: int = 16

    def finish_loading(self, tensors: dict[str, torch.Tensor]) -> None:
        weight = tensors["weight"]
        if _fits_float16(weight):
            packed = torch.ops.quantized.linear_prepack_fp16(weight, tensors.get("bias"))
        else:
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, self.batch_hint)
        tensors["weight"] = packed

    def apply(self, tensors: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        weight = tensors["weight"]
        out: torch.Tensor
        if isinstance(weight, torch.ScriptObject):  # FBGEMM's own, bias included
            out = torch.ops.quantized.linear_dynamic_fp16.default(x, weight)
        else:
            out = torch.ops.mkldnn._linear_pointwise(x, weight, tensors.get("bias"), "none", [], "")
        return out


def _fits_float16(weight: torch.Tensor) -> bool:
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    return bool((weight - weight.half().float()).abs().max() <= MAX_ROUNDING)


def linear_method_for(dtype: torch.dtype, device: torch.device) -> LinearMethod:
    """The fastest storage of unquantized weights on `device`."""
    packs = (
        device.type == "cpu"
        and dtype is torch.float32
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
    return PackedMethod() if packs else DenseMethod()
