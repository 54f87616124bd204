"""The parts of a model that adapters add to: every stacked output of every linear layer, in a fixed
order, and the place of each one's two matrices in an adapter's flat array.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from formgate.engine.adapter import RANK_STEP, AdapterError
from formgate.engine.layers.linear import Linear
from formgate.engine.layers.parallel import Slice
from formgate.engine.models.decoder import CausalLM


@dataclass(frozen=True, slots=True)
class Target:
    """An output of a linear layer: A has the layer's inputs, B these outputs."""

    inputs: Slice
    outputs: Slice


class Targets:
    """All targets of a model. Those of a layer are neighbours, in the order of its outputs."""

    def __init__(self, model: CausalLM) -> None:
        self._model = model
        self.layers: list[tuple[Linear, range]] = []  # with the indices of its targets
        self.targets: list[Target] = []
        self._places: dict[str, tuple[Linear, range]] = {}
        for name, layer in model.named_modules():
            if isinstance(layer, Linear) and layer.takes_adapters:
                first = len(self.targets)
                self.targets += [Target(layer.inputs, part) for part in layer.outputs.values()]
                place = layer, range(first, len(self.targets))
                self.layers.append(place)
                self._places[name] = place

    def find(self, module: str) -> range:
        """Indices of the targets that a module of the checkpoint covers; several if its outputs are
        stacked here and in the checkpoint too. Raises AdapterError.
        """
        try:
            found = self._model.parameter_of(f"{module}.weight")
        except ValueError:  # a layer's number that is none
            found = None
        name, shard = ("", None) if found is None else found
        place = self._places.get(name.removesuffix(".weight"))
        if place is None:
            raise AdapterError(_refusal(module))
        layer, indices = place
        if shard is None:
            return indices
        index = indices[list(layer.outputs).index(shard)]
        return range(index, index + 1)

    def whole_sizes(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each target, of all ranks together."""
        return [(one.inputs.full, one.outputs.full) for one in self.targets]

    def own_sizes(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each target on this rank, padding included."""
        return [(one.inputs.length, one.outputs.length) for one in self.targets]


def _refusal(module: str) -> str:
    last = module.rpartition(".")[2]
    if "experts" in module.split("."):
        return f"{module}: adapters of experts are not supported"
    if last in ("lm_head", "embed_tokens"):
        return f"{module}: adapters of the head and the embedding are not supported"
    return f"{module}: the model has no such layer that takes an adapter"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where an adapter's matrices lie in a flat array: for each target A [rank, inputs], then B
    [outputs, rank], each at a multiple of RANK_STEP elements.
    """

    table: NDArray[np.int64]  # [targets, 3]: rank (0: none), offset of A, offset of B
    size: int

    @classmethod
    def of(cls, ranks: Sequence[int], sizes: Iterable[tuple[int, int]]) -> Layout:
        """`ranks`: of each target, multiples of RANK_STEP."""
        table = np.zeros((len(ranks), 3), np.int64)
        end = 0
        for row, rank, (inputs, outputs) in zip(table, ranks, sizes, strict=True):
            assert rank % RANK_STEP == 0
            row[:] = rank, end, end + rank * inputs
            end += rank * (inputs + outputs)
        return cls(table, end)
