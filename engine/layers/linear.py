"""Linear layers answer three separate questions: which slice of the matrix this rank holds (the
class), how it is stored (`LinearMethod`), and what is added to the product (the bias).

Several checkpoint matrices may be stacked into one along the outputs, so that one product gives
query, key and value; each named output knows its own rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from formgate.engine.layers.layer import Layer
from formgate.engine.layers.parallel import Slice
from formgate.engine.layers.storage import LinearPart, Placement, StoredTensor


class Linear(Layer):
    """`outputs` are stacked in order. `partial_sums`: the inputs are split, so the ranks add up."""

    def __init__(
        self,
        inputs: Slice,
        outputs: Mapping[str, Slice],
        *,
        bias: bool,
        placement: Placement,
        partial_sums: bool = False,
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.outputs = dict(outputs)
        self.parallel = placement.parallel
        self.method = placement.linear_method
        self.partial_sums = partial_sums and placement.parallel.size > 1
        part = LinearPart(inputs, self.outputs, placement.dtype, placement.device)
        parameters = self.method.parameters(part)
        if bias:
            shape = (part.out_features,)
            stored = StoredTensor("bias", shape, part.dtype, output_dim=0, input_dim=None)
            parameters["bias"] = stored.parameter(part)
        # What `method` computes with, by the names it gave: the same memory, which loading fills. A
        # plain tensor takes torch's short way to the op.
        self.tensors: dict[str, torch.Tensor] = {}
        for name, parameter in parameters.items():
            self.register_parameter(name, parameter)
            self.tensors[name] = parameter.data
        if bias and self.partial_sums and placement.parallel.rank > 0:
            del self.tensors["bias"]  # every rank holds it, one adds it

    def finish_loading(self) -> None:
        loaded = dict(self.tensors)
        self.method.finish_loading(self.tensors)
        for name, tensor in loaded.items():
            if self.tensors.get(name) is not tensor:
                tensor.untyped_storage().resize_(0)  # repacked: nothing reads this one again

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [n, inputs of this rank] -> [n, outputs of this rank]"""
        out = self.method.apply(self.tensors, x)
        return self.parallel.all_reduce(out) if self.partial_sums else out


class ReplicatedLinear(Linear):
    """Every rank holds the whole matrix."""

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool, placement: Placement
    ) -> None:
        outputs = {"out": Slice.whole(out_features)}
        super().__init__(Slice.whole(in_features), outputs, bias=bias, placement=placement)


class ColumnLinear(Linear):
    """The outputs are split; the next layer takes them split."""

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool, placement: Placement
    ) -> None:
        outputs = {"out": Slice.of_rank(out_features, placement.parallel)}
        super().__init__(Slice.whole(in_features), outputs, bias=bias, placement=placement)


class MergedColumnLinear(Linear):
    """Several matrices over the same input, each split, stacked into one product."""

    def __init__(
        self, in_features: int, outputs: Mapping[str, int], *, bias: bool, placement: Placement
    ) -> None:
        parallel = placement.parallel
        slices = {name: Slice.of_rank(full, parallel) for name, full in outputs.items()}
        super().__init__(Slice.whole(in_features), slices, bias=bias, placement=placement)


class QKVLinear(Linear):
    """Query, key and value in one product, split by whole heads."""

    def __init__(
        self,
        in_features: int,
        *,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        bias: bool,
        placement: Placement,
    ) -> None:
        if num_heads % placement.parallel.size:
            raise ValueError(
                f"{num_heads} heads cannot be split over {placement.parallel.size} ranks"
            )
        query = Slice.of_heads(num_heads, head_dim, placement.parallel)
        key = Slice.of_heads(num_kv_heads, head_dim, placement.parallel)
        super().__init__(
            Slice.whole(in_features),
            {"q": query, "k": key, "v": key},
            bias=bias,
            placement=placement,
        )
        self.num_heads = query.length // head_dim
        self.num_kv_heads = key.length // head_dim


class RowLinear(Linear):
    """The inputs come split from a column layer; the ranks' partial sums are added up."""

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool, placement: Placement
    ) -> None:
        super().__init__(
            Slice.of_rank(in_features, placement.parallel),
            {"out": Slice.whole(out_features)},
            bias=bias,
            placement=placement,
            partial_sums=True,
        )
