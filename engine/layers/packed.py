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


# Rows that oneDNN's layout is tuned for; it is valid for any number. In bfloat16 the layout for one
# row is the fastest for up to 16 and no slower for hundreds; in float32 that for 16 is.
TUNED_ROWS = {torch.bfloat16: 1, torch.float32: 16}


@dataclass(frozen=True, slots=True)
class PackedMethod(DenseMethod):
    """Computes in the weight's dtype. A float32 weight that float16 can hold is stored as float16
    for FBGEMM; any other weight is stored in oneDNN's blocked layout.
    """

    def finish_loading(self, tensors: dict[str, torch.Tensor]) -> None:
        weight = tensors["weight"]
        if _fits_float16(weight):
            packed = torch.ops.quantized.linear_prepack_fp16(weight, tensors.get("bias"))
        else:
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, TUNED_ROWS[weight.dtype])
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
    if weight.dtype is not torch.float32:
        return False
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    return bool((weight - weight.half().float()).abs().max() <= MAX_ROUNDING)


def linear_method_for(dtype: torch.dtype, device: torch.device) -> LinearMethod:
    """The fastest storage of unquantized weights on `device`."""
    packs = (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and (dtype is torch.float32 or (dtype is torch.bfloat16 and _multiplies_bfloat16()))
    )
    return PackedMethod() if packs else DenseMethod()


def _multiplies_bfloat16() -> bool:
    """Whether oneDNN has bfloat16 products for this processor (AVX512 or better)."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
