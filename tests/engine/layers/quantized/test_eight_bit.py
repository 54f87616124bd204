"""8-bit weights and activations: the layer is what its scales say, up to the rounding of inputs."""

from __future__ import annotations

import pytest
import torch

from formgate.engine.errors import EngineStartError
from formgate.engine.layers.linear import MergedColumnLinear
from formgate.engine.layers.parallel import Slice, TensorParallel
from formgate.engine.layers.parameter import WeightSplitError
from formgate.engine.layers.quantized.eight_bit import (
    BlockFormat,
    EightBitMethod,
    OnlineFormat,
    ScaledFormat,
)
from formgate.engine.layers.storage import LinearPart, Placement

CPU = torch.device("cpu")
IN, OUT = 64, 32


def layer_of(method: EightBitMethod) -> MergedColumnLinear:
    placement = Placement(torch.bfloat16, CPU, linear_method=method)
    return MergedColumnLinear(IN, {"gate": OUT, "up": OUT}, bias=False, placement=placement)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8], ids=str)
@pytest.mark.parametrize("strategy", ["tensor", "channel"])
@pytest.mark.parametrize("static", [False, True])
def test_scales(dtype: torch.dtype, strategy, static: bool) -> None:
    torch.manual_seed(1)
    layer = layer_of(EightBitMethod(ScaledFormat(dtype, strategy, static)))
    x, expected = torch.randn(5, IN).bfloat16(), []
    for shard, factor in (("gate", 1.0), ("up", 3.0)):
        values = (torch.randn(OUT, IN) * 30).to(dtype)
        shape = (1,) if strategy == "tensor" else (OUT, 1)
        scale = (torch.rand(shape) + 0.5) * factor / 100
        layer.get_parameter("weight").weight_loader(values, shard)
        layer.get_parameter("weight_scale").weight_loader(scale, shard)
        if static:  # the larger of both is taken
            layer.get_parameter("input_scale").weight_loader(torch.tensor(0.01 * factor), shard)
        expected.append(x.float() @ (values.float() * scale).t())
    layer.finish_loading()
    found = layer(x).float()
    wanted = torch.cat(expected, dim=1)
    assert (found - wanted).norm() / wanted.norm() < 0.05
    assert layer.tensors["weight"].dtype is dtype


def test_online() -> None:
    torch.manual_seed(1)
    layer = layer_of(EightBitMethod(OnlineFormat()))
    weights = {shard: torch.randn(OUT, IN) for shard in ("gate", "up")}
    for shard, weight in weights.items():
        layer.get_parameter("weight").weight_loader(weight, shard)
    layer.finish_loading()
    assert layer.tensors["weight"].dtype is torch.float8_e4m3fn
    x = torch.randn(5, IN).bfloat16()
    expected = x.float() @ torch.cat(list(weights.values())).t()
    assert (layer(x).float() - expected).norm() / expected.norm() < 0.05


def test_a_rank_never_gets_half_of_a_block() -> None:
    inputs = Slice.of_rank(48, TensorParallel(1, 2))
    part = LinearPart(inputs, {"out": Slice.whole(OUT)}, torch.bfloat16, CPU)
    scales = BlockFormat(16, 16).parameters(part)["weight_scale_inv"]
    with pytest.raises(WeightSplitError, match="16 features in each element"):
        scales.weight_loader(torch.ones(2, 3), None)


def test_a_tensor_of_ours_in_a_file_is_refused() -> None:
    layer = layer_of(EightBitMethod(ScaledFormat(torch.int8, "tensor")))
    with pytest.raises(EngineStartError):
        layer.get_parameter("rows").weight_loader(torch.ones(2), None)
