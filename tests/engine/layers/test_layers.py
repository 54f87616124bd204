"""Layers on their own: the slices that two ranks load join to the whole, and the rotary tables are
those of transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from formgate.engine.layers.embedding import LMHead, VocabEmbedding
from formgate.engine.layers.linear import (
    ColumnLinear,
    Linear,
    MergedColumnLinear,
    QKVLinear,
    ReplicatedLinear,
    RowLinear,
)
from formgate.engine.layers.norm import RMSNorm
from formgate.engine.layers.parallel import Slice, TensorParallel
from formgate.engine.layers.parameter import (
    FileTensor,
    WeightParameter,
    WeightShapeError,
    WeightSplitError,
)
from formgate.engine.layers.rotary import cos_sin_table
from formgate.engine.layers.storage import LinearMethod, LinearPart, Placement, StoredTensor
from formgate.engine.models.spec import rope_spec

CPU = torch.device("cpu")
IN, OUT = 12, 16


def place(rank: int = 0, size: int = 1, method: LinearMethod | None = None) -> Placement:
    parallel = TensorParallel(rank, size)
    if method is None:
        return Placement(torch.float32, CPU, parallel)
    return Placement(torch.float32, CPU, parallel, method)


def ranks(make: Callable[[Placement], Linear]) -> list[Linear]:
    return [make(place(rank, 2)) for rank in range(2)]


def weights_of(layers: list[Linear]) -> list[torch.Tensor]:
    return [layer.get_parameter("weight").data for layer in layers]


def test_replicated_ranks_hold_everything() -> None:
    layers = ranks(lambda p: ReplicatedLinear(IN, OUT, bias=True, placement=p))
    weight, bias = torch.randn(OUT, IN), torch.randn(OUT)
    for layer in layers:
        layer.get_parameter("weight").weight_loader(weight, None)
        layer.get_parameter("bias").weight_loader(bias, None)
        x = torch.randn(3, IN)
        torch.testing.assert_close(layer(x), F.linear(x, weight, bias))


def test_column_ranks_join_along_the_outputs() -> None:
    layers = ranks(lambda p: ColumnLinear(IN, OUT, bias=True, placement=p))
    weight, bias = torch.randn(OUT, IN), torch.randn(OUT)
    for layer in layers:
        layer.get_parameter("weight").weight_loader(weight, None)
        layer.get_parameter("bias").weight_loader(bias, None)
    x = torch.randn(3, IN)
    assert torch.equal(torch.cat(weights_of(layers)), weight)
    joined = torch.cat([layer(x) for layer in layers], dim=-1)
    torch.testing.assert_close(joined, F.linear(x, weight, bias))


def test_row_ranks_join_along_the_inputs() -> None:
    layers = ranks(lambda p: RowLinear(IN, OUT, bias=True, placement=p))
    weight, bias = torch.randn(OUT, IN), torch.randn(OUT)
    for layer in layers:
        layer.get_parameter("weight").weight_loader(weight, None)
        layer.get_parameter("bias").weight_loader(bias, None)
        assert torch.equal(layer.get_parameter("bias"), bias)
    assert torch.equal(torch.cat(weights_of(layers), dim=1), weight)


@pytest.mark.parametrize("fused", [False, True], ids=["apart", "stacked in the checkpoint"])
def test_merged_ranks_keep_their_part_of_each_matrix(fused: bool) -> None:
    outputs = {"gate": 8, "up": 8}
    layers = ranks(lambda p: MergedColumnLinear(IN, outputs, bias=False, placement=p))
    gate, up = torch.randn(8, IN), torch.randn(8, IN)
    for layer in layers:
        parameter = layer.get_parameter("weight")
        assert parameter.shards == ("gate", "up")
        if fused:
            parameter.weight_loader(torch.cat((gate, up)), None)
        else:
            parameter.weight_loader(up, "up")
            parameter.weight_loader(gate, "gate")
    first, second = weights_of(layers)
    assert torch.equal(first, torch.cat((gate[:4], up[:4])))
    assert torch.equal(second, torch.cat((gate[4:], up[4:])))


@pytest.mark.parametrize("fused", [False, True], ids=["apart", "stacked in the checkpoint"])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_qkv_ranks_hold_whole_heads(num_kv_heads: int, fused: bool) -> None:
    """With fewer key heads than ranks, both ranks hold the same one."""
    dim = 2
    matrices = {
        "q": torch.randn(4 * dim, IN),
        "k": torch.randn(num_kv_heads * dim, IN),
        "v": torch.randn(num_kv_heads * dim, IN),
    }
    layers = [
        QKVLinear(
            IN,
            num_heads=4,
            num_kv_heads=num_kv_heads,
            head_dim=dim,
            bias=False,
            placement=place(rank, 2),
        )
        for rank in range(2)
    ]
    kv_rows = max(1, num_kv_heads // 2) * dim
    for rank, layer in enumerate(layers):
        parameter = layer.get_parameter("weight")
        if fused:
            parameter.weight_loader(torch.cat(list(matrices.values())), None)
        else:
            for name, matrix in matrices.items():
                parameter.weight_loader(matrix, name)
        assert (layer.num_heads, layer.num_kv_heads) == (2, kv_rows // dim)
        kv_start = rank * kv_rows if num_kv_heads > 1 else 0
        query, key, value = parameter.data.split((2 * dim, kv_rows, kv_rows))
        assert torch.equal(query, matrices["q"][rank * 2 * dim :][: 2 * dim])
        assert torch.equal(key, matrices["k"][kv_start:][:kv_rows])
        assert torch.equal(value, matrices["v"][kv_start:][:kv_rows])


@pytest.mark.parametrize("shape", [(OUT, IN + 1), (OUT - 1, IN), (OUT * IN,)])
def test_a_wrong_shape_is_named(shape: tuple[int, ...]) -> None:
    layer = ColumnLinear(IN, OUT, bias=False, placement=place(1, 2))
    with pytest.raises(WeightShapeError) as error:
        layer.get_parameter("weight").weight_loader(torch.zeros(shape), None)
    assert str(list(shape)) in str(error.value)
    assert str([OUT, IN]) in str(error.value)


@dataclass(frozen=True)
class PackedMethod:
    """Four 8-bit outputs to an int32, one scale for every 3 inputs, stored inputs first, and one
    factor a matrix: what real quantized checkpoints hold.
    """

    def parameters(self, part: LinearPart) -> dict[str, WeightParameter]:
        inputs, outputs = part.inputs.length, part.out_features
        stored = (
            StoredTensor("packed", (inputs, outputs // 4), torch.int32, 1, 0, output_divisor=4),
            StoredTensor("scales", (inputs // 3, outputs), part.dtype, 1, 0, input_divisor=3),
            StoredTensor("factor", (len(part.outputs),), part.dtype, None, None, per_output=True),
        )
        return {one.name: one.parameter(part) for one in stored}

    def finish_loading(self, tensors: dict[str, torch.Tensor]) -> None:
        scales = tensors["scales"].repeat_interleave(3, dim=0)
        rows = scales.shape[1] // len(tensors["factor"])
        tensors["scales"] = scales * tensors["factor"].repeat_interleave(rows)

    def apply(self, tensors: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return x @ (tensors["packed"].view(torch.int8).float() * tensors["scales"])


def test_a_packed_method_is_sliced_like_a_dense_one() -> None:
    outputs = {"gate": 8, "up": 8}
    parts = {
        name: (torch.randint(-9, 9, (IN, 8), dtype=torch.int8), torch.rand(IN // 3, 8))
        for name in outputs
    }
    factors = {"gate": torch.tensor(0.5), "up": torch.tensor([3.0])}
    x = torch.randn(2, IN)
    whole = {
        name: x @ (values.float() * scales.repeat_interleave(3, dim=0)) * factors[name]
        for name, (values, scales) in parts.items()
    }
    for rank in range(2):
        layer = MergedColumnLinear(
            IN, outputs, bias=False, placement=place(rank, 2, PackedMethod())
        )
        for name, (values, scales) in parts.items():
            layer.get_parameter("packed").weight_loader(values.view(torch.int32), name)
            layer.get_parameter("scales").weight_loader(scales, name)
            layer.get_parameter("factor").weight_loader(factors[name], name)
        layer.finish_loading()
        mine = slice(4 * rank, 4 * rank + 4)
        expected = torch.cat([whole[name][:, mine] for name in outputs], dim=-1)
        torch.testing.assert_close(layer(x), expected)

    values, scales = parts["gate"]
    total = torch.zeros(2, 8)
    for rank in range(2):
        row = RowLinear(IN, 8, bias=False, placement=place(rank, 2, PackedMethod()))
        row.get_parameter("packed").weight_loader(values.view(torch.int32), None)
        row.get_parameter("scales").weight_loader(scales, None)
        row.get_parameter("factor").weight_loader(factors["gate"], None)
        row.finish_loading()
        part = x[:, rank * IN // 2 :][:, : IN // 2]
        total += row.method.apply(row.tensors, part)
    torch.testing.assert_close(total, whole["gate"])


def test_a_factor_of_a_stacked_matrix_is_that_of_each_part() -> None:
    placement = place(method=PackedMethod())
    layer = MergedColumnLinear(IN, {"gate": 8, "up": 8}, bias=False, placement=placement)
    factor = layer.get_parameter("factor")
    factor.weight_loader(torch.tensor(2.0), None)
    assert factor.tolist() == [2.0, 2.0]
    with pytest.raises(WeightShapeError):
        factor.weight_loader(torch.ones(2), "up")


def test_a_rank_reads_the_slice_that_it_keeps(tmp_path: Path) -> None:
    """Narrowing a tensor of a file gives what narrowing the tensor gives; nothing else is read."""
    weight, scalar = torch.randn(OUT, IN), torch.tensor(3.0)
    save_file({"weight": weight, "scalar": scalar}, tmp_path / "w.safetensors")
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        part = FileTensor.of(file, "weight").narrow(0, 4, 8).narrow(1, 3, 6).narrow(0, 2, 3)
        assert part.shape == (3, 6)
        assert torch.equal(part.read(), weight[6:9, 3:9])
        assert torch.equal(FileTensor.of(file, "scalar").read(), scalar)
        with pytest.raises(AssertionError):
            part.narrow(0, 1, 3)
        for rank in range(2):
            layer = RowLinear(IN, OUT, bias=False, placement=place(rank, 2))
            layer.get_parameter("weight").weight_loader(FileTensor.of(file, "weight"), None)
            half = weight[:, rank * IN // 2 :][:, : IN // 2]
            assert torch.equal(layer.get_parameter("weight"), half)


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(ValueError, match="13 features cannot be split over 2 ranks"):
        Slice.of_rank(13, TensorParallel(0, 2))
    with pytest.raises(ValueError, match="3 heads cannot be split over 2 ranks"):
        Slice.of_heads(3, 8, TensorParallel(0, 2))
    with pytest.raises(ValueError, match="3 heads cannot be shared by 4 ranks"):
        Slice.of_heads(3, 8, TensorParallel(0, 4))


@pytest.mark.parametrize(("features", "fits"), [(16, True), (24, False)])
def test_a_rank_never_gets_half_of_a_group(features: int, fits: bool) -> None:
    """Two ranks, with a scale for each group of 8 inputs."""
    scales = torch.arange(OUT * features // 8).reshape(OUT, features // 8)
    for rank in range(2):
        inputs = Slice.of_rank(features, TensorParallel(rank, 2))
        part = LinearPart(inputs, {"out": Slice.whole(OUT)}, torch.float32, CPU)
        shape = (OUT, inputs.length // 8)
        stored = StoredTensor("scales", shape, torch.int64, 0, 1, input_divisor=8).parameter(part)
        if fits:
            stored.weight_loader(scales, None)
            assert torch.equal(stored.data, scales[:, rank : rank + 1])
        else:
            with pytest.raises(WeightSplitError, match="8 features in each element"):
                stored.weight_loader(scales, None)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_feed_forward_size_that_ranks_do_not_divide_is_padded(size: int) -> None:
    """Padding takes part in the products and changes nothing."""
    inner = 49
    up, down, x = torch.randn(inner, IN), torch.randn(OUT, inner), torch.randn(3, IN)
    total = torch.zeros(3, OUT)
    for rank in range(size):
        first = MergedColumnLinear(IN, {"up": inner}, bias=False, placement=place(rank, size))
        second = RowLinear(inner, OUT, bias=False, placement=place(rank, size))
        for layer, weight in ((first, up), (second, down)):
            layer.get_parameter("weight").data.fill_(torch.nan)
            layer.get_parameter("weight").weight_loader(weight, None)
        assert first.outputs["up"].length == second.inputs.length
        assert second.inputs.length % 16 == 0
        total += second.method.apply(second.tensors, first(x))
    assert torch.allclose(total, x @ up.t() @ down.t(), atol=1e-4)


def test_vocabulary_rows_are_padded_to_equal_parts() -> None:
    table = torch.randn(7, 4)
    shards = []
    for rank in range(2):
        embedding = VocabEmbedding(7, 4, place(rank, 2))
        embedding.weight.weight_loader(table, None)
        shards.append(embedding.weight.data)
    joined = torch.cat(shards)
    assert torch.equal(joined[:7], table)
    assert torch.equal(joined[7:], torch.zeros(1, 4))


def test_a_head_is_float32_capped_and_cut_to_the_vocabulary() -> None:
    placement = Placement(torch.bfloat16, CPU)
    head = LMHead(7, 4, placement, softcap=2.0)
    table = torch.randn(7, 4).bfloat16()
    head.weight.weight_loader(table, None)
    hidden = torch.randn(3, 4).bfloat16() * 9
    logits = head(hidden)
    assert logits.dtype is torch.float32
    plain = F.linear(hidden, table).float()
    torch.testing.assert_close(logits, torch.tanh(plain / 2.0) * 2.0)


def test_a_tied_head_owns_no_weight() -> None:
    embedding = VocabEmbedding(7, 4, place())
    head = LMHead(7, 4, place(), tied=embedding)
    assert head.weight is embedding.weight


def test_a_norm_adds_its_offset_without_rounding() -> None:
    norm = RMSNorm(4, 1e-6, Placement(torch.bfloat16, CPU), offset=1.0)
    stored = torch.tensor([0.001, -0.002, 0.5, 0.0])
    norm.weight.weight_loader(stored, None)
    assert torch.equal(norm.weight, stored + 1.0)


ROPES = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "partial": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 1000000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 512,
    },
    "yarn with every field": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 24.0,
        "beta_slow": 2.0,
        "mscale": 1.0,
        "mscale_all_dim": 0.7,
        "truncate": False,
    },
    "yarn with its factor": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 2.0,
        "original_max_position_embeddings": 4096,
        "attention_factor": 1.7,
    },
}


@pytest.mark.parametrize("name", ROPES)
def test_rotary_table_is_that_of_transformers(name: str) -> None:
    config = LlamaConfig(
        hidden_size=256,
        num_attention_heads=2,
        max_position_embeddings=2048,
        rope_parameters=dict(ROPES[name]),
    )
    rope = rope_spec(config, head_dim=128)
    if rope.kind == "default":
        exponents = torch.arange(0, rope.rotary_dim, 2).float() / rope.rotary_dim
        frequencies, scale = 1.0 / (10000.0**exponents), 1.0
    else:
        frequencies, scale = ROPE_INIT_FUNCTIONS[rope.kind](config, CPU)
    angles = torch.arange(rope.max_position).float()[:, None] * frequencies
    expected = torch.cat((angles.cos(), angles.sin()), dim=-1) * scale
    assert rope.rotary_dim == (64 if name == "partial" else 128)
    assert rope.max_position >= 2048
    # An ulp of a frequency is 1e-4 radians at position 2,000.
    near = slice(0, 2048)
    torch.testing.assert_close(cos_sin_table(rope)[near], expected[near], rtol=0, atol=5e-4)
