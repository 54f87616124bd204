"""The adapters on a device, by slot, and what each linear layer adds from them. A slot holds an
adapter's matrices one after the other, each in its own rank, and has room for the largest rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from formgate.engine.adapter import RANK_STEP
from formgate.engine.layers.parallel import Slice, TensorParallel
from formgate.engine.lora.targets import Layout, Target, Targets
from formgate.engine.models.decoder import CausalLM
from formgate.engine.models.forward_batch import AdapterRows, ForwardBatch
from formgate.kernels.lora_shrink_expand import OUTPUTS, add_lora


class AdapterBank:
    def __init__(
        self,
        model: CausalLM,
        *,
        slots: int,
        max_rank: int,
        dtype: torch.dtype,
        device: torch.device,
        parallel: TensorParallel,
    ) -> None:
        """Every linear layer of `model` adds from the bank from now on. All slots are empty."""
        self.targets = Targets(model)
        self.dtype = dtype
        self.device = device
        self.max_rank = max_rank
        self._parallel = parallel
        stored = -(-max_rank // RANK_STEP) * RANK_STEP
        num_targets = len(self.targets.targets)
        largest = Layout.of([stored] * num_targets, self.targets.own_sizes())
        self._weights = torch.zeros((slots, largest.size), dtype=dtype, device=device)
        self._table = torch.zeros((slots, num_targets, 3), dtype=torch.int64, device=device)
        self._rows = _StepRows()
        for layer, indices in self.targets.layers:
            layer.adapters = LayerAdapters(
                self._weights,
                self._table[:, indices.start : indices.stop],
                [part.length for part in layer.outputs.values()],
                self._rows,
                max_rank=stored,
            )
        on_cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if on_cuda else None  # type: ignore[no-untyped-call]
        self._copied: dict[int, torch.cuda.Event] = {}

    @property
    def num_slots(self) -> int:
        return self._weights.shape[0]

    def use(self, batch: ForwardBatch) -> None:
        """Let the layers add the adapters of the batch's rows from now on."""
        self._rows.set(batch)

    @torch.inference_mode()
    def load(self, slot: int, ranks: Sequence[int], weights: torch.Tensor | None) -> None:
        """Put an adapter into a slot; returns at once, see `is_ready`. No step launched from now on
        may use the slot's last adapter. `ranks` and `weights` are a HostAdapter's; ranks other than
        0 have no weights and get their slices from rank 0.
        """
        whole = Layout.of(ranks, self.targets.whole_sizes())
        if self._parallel.is_alone:
            assert weights is not None
            self._copy(slot, weights, whole)
            return
        staged = torch.empty(whole.size, dtype=self.dtype, device=self.device)
        if weights is not None:
            staged.copy_(weights)
        self._parallel.broadcast(staged.view(torch.uint8))
        own = Layout.of(ranks, self.targets.own_sizes())
        slot_weights = self._weights[slot]
        slot_weights[: own.size].zero_()  # a rank's padding
        for target, (rank, a, b), (_, own_a, own_b) in zip(
            self.targets.targets, whole.table.tolist(), own.table.tolist(), strict=True
        ):
            if rank:
                _copy_slices(target, rank, staged[a:], staged[b:], slot_weights, own_a, own_b)
        self._table[slot].copy_(torch.from_numpy(own.table))

    def is_ready(self, slot: int) -> bool:
        """True once the slot's adapter can be used by the next step."""
        event = self._copied.get(slot)
        if event is not None and not event.query():  # type: ignore[no-untyped-call]
            return False
        self._copied.pop(slot, None)
        return True

    def _copy(self, slot: int, weights: torch.Tensor, layout: Layout) -> None:
        place = self._weights[slot, : layout.size]
        table = torch.from_numpy(layout.table)
        if self._stream is None:
            place.copy_(weights)
            self._table[slot].copy_(table)
            return
        # Beside the steps, but after those that may still read the slot's last adapter.
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            place.copy_(weights, non_blocking=True)
            self._table[slot].copy_(table.pin_memory(), non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._copied[slot] = event


class LayerAdapters:
    """What a linear layer adds: of each row's adapter, the products of this layer's targets."""

    def __init__(
        self,
        weights: torch.Tensor,
        table: torch.Tensor,
        lengths: Sequence[int],
        rows: _StepRows,
        *,
        max_rank: int,
    ) -> None:
        """`lengths`: of the layer's stacked outputs on this rank."""
        self._weights = weights
        self._table = table
        self._rows = rows
        self._max_rank = max_rank
        blocks: list[tuple[int, int, int]] = []
        column = 0
        for number, length in enumerate(lengths):
            blocks += [(number, at, column + at) for at in range(0, length, OUTPUTS)]
            column += length
        self._blocks = torch.tensor(blocks, dtype=torch.int32, device=weights.device)

    def add(self, out: torch.Tensor, x: torch.Tensor) -> None:
        """x [n, inputs], out [n, outputs], changed in place"""
        rows = self._rows.of(x.shape[0])
        if rows is None:
            return
        add_lora(
            out,
            x,
            self._weights,
            self._table,
            self._blocks,
            rows.order,
            rows.tiles,
            max_rank=self._max_rank,
            tile_rows=rows.tile_rows,
        )


class _StepRows:
    """The rows of the current step's adapters. The last layer may compute the tokens that are read
    only: their number tells the two apart, as a batch that reads every token has one set.
    """

    def __init__(self) -> None:
        self._by_number: dict[int, AdapterRows] = {}

    def set(self, batch: ForwardBatch) -> None:
        found = (batch.adapters, batch.read_adapters)
        self._by_number = {rows.order.shape[0]: rows for rows in found if rows is not None}

    def of(self, num_rows: int) -> AdapterRows | None:
        if not self._by_number:
            return None
        return self._by_number[num_rows]


def _copy_slices(
    target: Target,
    rank: int,
    a: torch.Tensor,
    b: torch.Tensor,
    slot: torch.Tensor,
    own_a: int,
    own_b: int,
) -> None:
    """Copy this rank's slices of the matrices that `a` and `b` start with to a slot's offsets."""
    inputs, outputs = target.inputs, target.outputs
    whole_a = a[: rank * inputs.full].view(rank, inputs.full)
    place = slot[own_a : own_a + rank * inputs.length].view(rank, inputs.length)
    place[:, : inputs.held] = whole_a[:, _held(inputs)]
    whole_b = b[: rank * outputs.full].view(outputs.full, rank)
    place = slot[own_b : own_b + rank * outputs.length].view(outputs.length, rank)
    place[: outputs.held] = whole_b[_held(outputs)]


def _held(part: Slice) -> slice:
    return slice(part.start, part.start + part.held)
