"""Linear layers. The class decides which slice of the matrix this rank holds; the `LinearMethod`
decides how it is stored and multiplied; `adapters` is what is added to the product.

Several checkpoint matrices may be stacked along the outputs, so that one product gives query, key
and value. Each output has a name and its own rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from formgate.engine.layers.layer import Layer
from formgate.engine.layers.parallel import Slice
from formgate.engine.layers.storage import LinearPart, Placement, StoredTensor

# A share of features that the ranks do not divide is a multiple of this: kernels read 16 at once.
PADDED_TO = 16


class Addition(Protocol):
    def add(self, out: torch.Tensor, x: torch.Tensor) -> None:
        """x [n, inputs of this rank], out [n, outputs of this rank], changed in place"""


class Linear(Layer):
    """`outputs` are stacked in order. `partial_sums`: the inputs are split over the ranks, and an
    all-reduce sums the products.
    """

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
        self.partial_sums = partial_sums and not placement.parallel.is_alone
        self.takes_adapters = True  # False if its inputs are not one row for each token
        self.adapters: Addition | None = None
        part = LinearPart(inputs, self.outputs, placement.dtype, placement.device)
        parameters = self.method.parameters(part)
        if bias:
            shape = (part.out_features,)
            stored = StoredTensor("bias", shape, part.dtype, output_dim=0, input_dim=None)
            parameters["bias"] = stored.parameter(part)
        # The parameters' data by the names that `method` gave them; loading fills the same memory.
        # A plain tensor has less dispatch overhead than a parameter.
        self.tensors: dict[str, torch.Tensor] = {}
        for name, parameter in parameters.items():
            self.register_parameter(name, parameter)
            self.tensors[name] = parameter.data
        if bias and self.partial_sums and placement.parallel.rank > 0:
            del self.tensors["bias"]  # every rank loads it, only rank 0 adds it

    def finish_loading(self) -> None:
        """Let the method repack its tensors, and free the memory of those it replaced."""
        loaded = dict(self.tensors)
        self.method.finish_loading(self.tensors)
        for name, tensor in loaded.items():
            if self.tensors.get(name) is not tensor:
                tensor.untyped_storage().resize_(0)  # repacked; the original is never read again

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [n, inputs of this rank] -> [n, outputs of this rank]"""
        out = self.method.apply(self.tensors, x)
        if self.adapters is not None:
            self.adapters.add(out, x)  # of a split layer, a part of the sum as `out` is
        return self.parallel.all_reduce(out) if self.partial_sums else out


class ReplicatedLinear(Linear):
    """Every rank holds the whole matrix."""

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool, placement: Placement
    ) -> None:
        outputs = {"out": Slice.whole(out_features)}
        super().__init__(Slice.whole(in_features), outputs, bias=bias, placement=placement)


class ColumnLinear(Linear):
    """Each rank computes its slice of the outputs, which the next layer takes as its inputs."""

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool, placement: Placement
    ) -> None:
        outputs = {"out": Slice.of_rank(out_features, placement.parallel)}
        super().__init__(Slice.whole(in_features), outputs, bias=bias, placement=placement)


class MergedColumnLinear(Linear):
    """Several matrices with the same input in one product; each rank holds a slice of each. The
    last ranks may hold padding, whose outputs are 0.
    """

    def __init__(
        self, in_features: int, outputs: Mapping[str, int], *, bias: bool, placement: Placement
    ) -> None:
        parallel = placement.parallel
        slices = {
            name: Slice.padded(full, parallel, multiple=PADDED_TO) for name, full in outputs.items()
        }
        super().__init__(Slice.whole(in_features), slices, bias=bias, placement=placement)


class QKVLinear(Linear):
    """Query, key and value in one product, split by whole heads. Raises ValueError if the ranks
    cannot divide the heads.
    """

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
    """The inputs are split, as column layers leave them; an all-reduce sums the products, unless
    `summed` is False: then the caller has to.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool,
        placement: Placement,
        summed: bool = True,
    ) -> None:
        assert summed or not bias  # each rank would add it
        super().__init__(
            Slice.padded(in_features, placement.parallel, multiple=PADDED_TO),
            {"out": Slice.whole(out_features)},
            bias=bias,
            placement=placement,
            partial_sums=summed,
        )
