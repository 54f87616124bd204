"""A mixture-of-experts layer: a router chooses a few of many gated MLPs for each token."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from formgate.engine.errors import EngineStartError
from formgate.engine.layers.layer import Layer
from formgate.engine.layers.linear import PADDED_TO, ReplicatedLinear
from formgate.engine.layers.mlp import GatedMLP
from formgate.engine.layers.parallel import Slice
from formgate.engine.layers.parameter import Loaded, WeightParameter, WeightShapeError, read
from formgate.engine.layers.quantized.expert_weights import features_together, stack_experts
from formgate.engine.layers.storage import (
    DenseMethod,
    LinearMethod,
    LinearPart,
    Placement,
    StoredTensor,
)
from formgate.kernels.experts.choose_experts import Choice, choose_experts
from formgate.kernels.experts.combine_experts import combine_experts
from formgate.kernels.experts.expert_linear import block_rows, expert_linear
from formgate.kernels.experts.gate import PLAIN_GATE, Gate
from formgate.kernels.experts.quantized_weights import ExpertWeights
from formgate.kernels.experts.sort_by_expert import SortedPairs, sort_by_expert
from formgate.kernels.skinny_linear import linear


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsSpec:
    num_experts: int
    intermediate_size: int  # of one expert
    choice: Choice
    gate: Gate = PLAIN_GATE
    biases: bool = False  # of the router and of each expert's two products
    # Checkpoints hold one tensor for all experts: the matrices [num_experts, inputs, outputs],
    # gates and ups in turn.
    stacked: bool = False
    float32_router: bool = False
    corrected: bool = False  # a trained bias balances the load: it counts for the choice alone
    shared_size: int = 0  # of the MLP that all tokens share; 0: there is none
    shared_gate: bool = False  # a sigmoid of the token scales the shared MLP


def _zeros(target: torch.Tensor, generator: torch.Generator) -> None:
    target.zero_()


class Router(Layer):
    """Every rank holds the whole router and makes the same choice. It is never quantized."""

    def __init__(self, hidden_size: int, spec: ExpertsSpec, placement: Placement) -> None:
        super().__init__()
        self.choice = spec.choice
        self.dtype = torch.float32 if spec.float32_router else placement.dtype
        part = LinearPart(
            Slice.whole(hidden_size),
            {"out": Slice.whole(spec.num_experts)},
            self.dtype,
            placement.device,
        )
        self.weight = DenseMethod().parameters(part)["weight"]
        self.bias: WeightParameter | None = None
        if spec.biases:
            shape = (spec.num_experts,)
            stored = StoredTensor("bias", shape, self.dtype, output_dim=0, input_dim=None)
            self.bias = stored.parameter(part)
        self.correction: torch.Tensor | None = None
        if spec.corrected:
            self.e_score_correction_bias = WeightParameter(
                torch.empty(spec.num_experts, dtype=torch.float32, device=placement.device),
                dummy=_zeros,
            )
            self.correction = self.e_score_correction_bias.data

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x [n, hidden_size] -> weights float32 [n, top_k], experts int32 [n, top_k]"""
        logits = linear(x.to(self.dtype), self.weight, self.bias)
        return choose_experts(logits, self.choice, self.correction)


class ExpertLinear(Layer):
    """One matrix of each expert that this rank holds. A checkpoint has one tensor for each expert
    and each of `part`'s outputs; its shard is `7.gate`, or `7` if there is one output. With
    `spec.stacked` it has one tensor for all experts. `adds_bias`: whether this rank adds biases.
    """

    def __init__(
        self,
        part: LinearPart,
        held: range,
        spec: ExpertsSpec,
        method: LinearMethod,
        *,
        gated: bool,
        adds_bias: bool,
    ) -> None:
        super().__init__()
        self.gated = gated
        self.gate = spec.gate
        self.num_experts = spec.num_experts
        self.held = held
        self.method = method
        self.outputs = outputs = tuple(part.outputs) if len(part.outputs) > 1 else ("",)
        shards = tuple(
            f"{expert}.{output}".rstrip(".")
            for expert in range(0 if spec.stacked else spec.num_experts)
            for output in outputs
        )
        shape = (len(held), part.out_features, part.inputs.length)
        self.dtype = part.dtype
        self.weights: ExpertWeights = torch.empty(0)  # of each expert, after loading
        # By expert and name: the parameters that the method makes of one expert's matrix.
        self.parts: list[dict[str, WeightParameter]] = []
        if isinstance(method, DenseMethod):
            self.weights = matrices = torch.empty(shape, dtype=part.dtype, device=part.device)
            stored = StoredTensor("weight", shape[1:], part.dtype, output_dim=0, input_dim=1)
            for matrix in matrices:
                self.parts.append({"weight": stored.parameter(part, matrix)})
        else:
            self.parts = [method.parameters(part) for _ in held]
        self.added: torch.Tensor | None = None  # the biases [experts held, out_features]
        if spec.biases:
            biases = torch.empty(shape[:2], dtype=part.dtype, device=part.device)
            self.added = biases if adds_bias else None  # every rank loads them
            stored = StoredTensor("bias", shape[1:2], part.dtype, output_dim=0, input_dim=None)
            for parameters, bias in zip(self.parts, biases, strict=True):
                parameters["bias"] = stored.parameter(part, bias)
        for name, first in self.parts[0].items():
            of_all = WeightParameter(torch.empty(0, device=part.device), shards)
            of_all.weight_loader = partial(self._load, name)
            of_all.dummy = partial(self._fill, name)
            of_all.optional = first.optional
            self.register_parameter(name, of_all)

    def _load(self, name: str, loaded: Loaded, shard: str | None) -> None:
        if shard is None:
            self._load_stacked(name, loaded)
            return
        expert, _, output = shard.partition(".")
        if int(expert) in self.held:
            parameter = self.parts[self.held.index(int(expert))][name]
            parameter.weight_loader(loaded, output or None)

    def _load_stacked(self, name: str, loaded: Loaded) -> None:
        """Of each expert that this rank holds, the whole matrix is read."""
        if not loaded.shape or loaded.shape[0] != self.num_experts:
            raise WeightShapeError(loaded.shape, (self.num_experts, *loaded.shape[1:]))
        for expert, parameters in zip(self.held, self.parts, strict=True):
            whole = read(loaded.narrow(0, expert, 1)).squeeze(0)
            if name == "weight":
                whole = whole.t()
            for i, output in enumerate(self.outputs):
                rows = whole[i :: len(self.outputs)]
                parameters[name].weight_loader(rows, output or None)

    def _fill(self, name: str, target: torch.Tensor, generator: torch.Generator) -> None:
        for part in self.parts:
            part[name].dummy(part[name].data, generator)

    def finish_loading(self) -> None:
        if not isinstance(self.method, DenseMethod):
            tensors = (
                {name: one.data for name, one in part.items() if name != "bias"}
                for part in self.parts
            )
            self.weights = stack_experts(self.method, tensors, self.dtype)
        self.parts.clear()

    def forward(self, x: torch.Tensor, order: SortedPairs, top_k: int) -> torch.Tensor:
        """See `expert_linear`."""
        return expert_linear(
            x,
            self.weights,
            order,
            top_k=top_k,
            gated=self.gated,
            bias=self.added,
            gate=self.gate,
        )


class Experts(Layer):
    """The routed experts. The ranks split each expert's inner features among them or, with
    `placement.expert_parallel`, the experts.
    """

    def __init__(self, hidden_size: int, spec: ExpertsSpec, placement: Placement) -> None:
        super().__init__()
        parallel = placement.parallel
        self.top_k = spec.choice.top_k
        # All experts are stored as the first one is.
        first = placement.inside(0)
        up_method = first.inside("gate_up_proj").linear_method
        down_method = first.inside("down_proj").linear_method
        unit = features_together(down_method)
        inner = Slice.padded(spec.intermediate_size, parallel, multiple=PADDED_TO, unit=unit)
        self.held = range(spec.num_experts)
        if placement.expert_parallel:
            if spec.num_experts < parallel.size:
                raise EngineStartError(
                    f"--enable-expert-parallel: {parallel.size} ranks cannot share out "
                    f"{spec.num_experts} experts"
                )
            inner = Slice.whole(spec.intermediate_size)
            first_held, end = (
                spec.num_experts * rank // parallel.size
                for rank in (parallel.rank, parallel.rank + 1)
            )
            self.held = range(first_held, end)
        outer = Slice.whole(hidden_size)
        up = LinearPart(outer, {"gate": inner, "up": inner}, placement.dtype, placement.device)
        down = LinearPart(inner, {"out": outer}, placement.dtype, placement.device)
        self.gate_up_proj = ExpertLinear(up, self.held, spec, up_method, gated=True, adds_bias=True)
        # Without expert parallelism the ranks' products of a token are summed, and its bias once.
        adds_bias = placement.expert_parallel or parallel.rank == 0
        self.down_proj = ExpertLinear(
            down, self.held, spec, down_method, gated=False, adds_bias=adds_bias
        )

    def forward(
        self,
        x: torch.Tensor,
        weights: torch.Tensor,
        experts: torch.Tensor,
        shared: torch.Tensor | None,
    ) -> torch.Tensor:
        """x [n, hidden_size], weights and experts [n, top_k] -> this rank's part of the sum
        [n, hidden_size], with `shared` added
        """
        block = block_rows(experts.numel(), len(self.held))
        order = sort_by_expert(experts, len(self.held), block, self.held.start)
        hidden = self.gate_up_proj(x, order, self.top_k)
        out = self.down_proj(hidden, order, self.top_k)
        return combine_experts(out, weights, order, shared)


class MixtureOfExperts(Layer):
    def __init__(
        self, hidden_size: int, spec: ExpertsSpec, activation: str, placement: Placement
    ) -> None:
        super().__init__()
        if activation != "silu":
            raise EngineStartError(f"experts with the activation {activation!r} are not supported")
        self.parallel = placement.parallel
        self.gate = Router(hidden_size, spec, placement)
        self.experts = Experts(hidden_size, spec, placement.inside("experts"))
        self.shared_experts: GatedMLP | None = None
        self.shared_gate: ReplicatedLinear | None = None
        if spec.shared_size:
            self.shared_experts = GatedMLP(
                hidden_size,
                spec.shared_size,
                activation=activation,
                bias=False,
                placement=placement.inside("shared_experts"),
                summed=False,
            )
        if spec.shared_gate:
            # One output is never quantized.
            whole = Placement(placement.dtype, placement.device)
            self.shared_gate = ReplicatedLinear(hidden_size, 1, bias=False, placement=whole)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [n, hidden_size] -> [n, hidden_size]"""
        weights, experts = self.gate(x)
        shared: torch.Tensor | None = None
        if self.shared_experts is not None:
            shared = self.shared_experts(x)
        if shared is not None and self.shared_gate is not None:
            shared = shared * self.shared_gate(x).sigmoid()
        return self.parallel.all_reduce(self.experts(x, weights, experts, shared))
