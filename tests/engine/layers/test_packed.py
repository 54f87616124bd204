"""Dense weights repacked for a CPU: the same products, at any number of rows."""

from __future__ import annotations

import pytest
import torch

from formgate.engine.layers.linear import ColumnLinear
from formgate.engine.layers.packed import PackedMethod, linear_method_for
from formgate.engine.layers.storage import DenseMethod, Placement

CPU = torch.device("cpu")
IN, OUT = 96, 200


def packed_or_skip(dtype: torch.dtype) -> PackedMethod:
    method = linear_method_for(dtype, CPU)
    if not isinstance(method, PackedMethod):
        pytest.skip(f"no packed products in {dtype} on this processor")
    return method


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("fits_float16", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_products_of_packed_weights(dtype: torch.dtype, fits_float16: bool, bias: bool) -> None:
    """Within the dtype's rounding of the exact product; no row depends on the others."""
    placement = Placement(dtype, CPU, linear_method=packed_or_skip(dtype))
    layer = ColumnLinear(IN, OUT, bias=bias, placement=placement)
    weight = torch.randn(OUT, IN)
    weight = weight.half().to(dtype) if fits_float16 else weight.to(dtype)
    added = torch.randn(OUT).to(dtype) if bias else torch.zeros(OUT)
    layer.get_parameter("weight").weight_loader(weight, None)
    if bias:
        layer.get_parameter("bias").weight_loader(added, None)
    layer.finish_loading()
    x = torch.randn(33, IN).to(dtype)
    exact = x.double() @ weight.double().t() + added.double()
    rounding = 2**-8 if dtype is torch.bfloat16 else 1e-6
    out = layer(x)
    assert out.dtype is dtype
    torch.testing.assert_close(out.double(), exact, rtol=rounding, atol=20 * rounding)
    for rows in (1, 2, 5, 16):
        assert torch.equal(layer(x[:rows]), out[:rows]), rows


def test_other_dtypes_stay_dense() -> None:
    assert type(linear_method_for(torch.float64, CPU)) is DenseMethod
