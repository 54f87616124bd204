"""The slice of a model that one rank of a tensor-parallel group holds, and the two collectives that
join the slices. The group is made outside, where the processes start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.distributed as dist


class SmallReduce(Protocol):
    """An all-reduce that serves contiguous tensors which it `takes`."""

    def takes(self, x: torch.Tensor) -> bool: ...

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class TensorParallel:
    """This process's rank and group, passed to every split layer. The default is a single rank,
    which joins nothing. A single rank with a group runs every collective, as tests want it.
    `peers`: a quicker all-reduce for some tensors.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None
    peers: SmallReduce | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.size, (self.rank, self.size)

    @property
    def is_alone(self) -> bool:
        """True if there is nothing to join."""
        return self.size == 1 and self.group is None

    def all_reduce(self, partial: torch.Tensor) -> torch.Tensor:
        """Sum over the ranks, in place or not."""
        if self.is_alone:
            return partial
        if self.peers is not None and self.peers.takes(partial):
            return self.peers.all_reduce(partial)
        assert self.group is not None
        self.group.allreduce([partial]).wait()
        return partial

    def broadcast(self, values: torch.Tensor) -> None:
        """Overwrite with rank 0's values, in place."""
        if not self.is_alone:
            assert self.group is not None
            self.group.broadcast(values, 0).wait()

    def all_numbers(self, number: int, device: torch.device) -> list[int]:
        """Every rank's number, by rank. It waits for the device."""
        mine = torch.tensor([[number]], dtype=torch.int64, device=device)
        numbers: list[int] = self.all_gather(mine)[0].tolist()
        return numbers

    def all_gather(self, part: torch.Tensor) -> torch.Tensor:
        """Concatenate every rank's [n, d] along the last dimension: [n, size * d]."""
        if self.is_alone:
            return part
        assert self.group is not None
        parts = [torch.empty_like(part) for _ in range(self.size)]
        self.group.allgather([parts], [part.contiguous()]).wait()
        return torch.cat(parts, dim=-1)


@dataclass(frozen=True, slots=True)
class Slice:
    """`length` of `full` features, starting at `start`. Features past `full` are padding."""

    full: int
    start: int
    length: int

    @classmethod
    def whole(cls, full: int) -> Slice:
        return cls(full, 0, full)

    @classmethod
    def of_rank(cls, full: int, parallel: TensorParallel) -> Slice:
        """An equal share of the features. Raises ValueError if the ranks do not divide them."""
        if full % parallel.size:
            raise ValueError(f"{full} features cannot be split over {parallel.size} ranks")
        length = full // parallel.size
        return cls(full, parallel.rank * length, length)

    @classmethod
    def padded(
        cls, full: int, parallel: TensorParallel, *, multiple: int = 1, unit: int = 1
    ) -> Slice:
        """An equal share of any number of features; the last ranks may hold padding. If the ranks
        do not divide the features, each share is a multiple of `multiple`; it always is one of
        `unit`.
        """
        length = -(-full // parallel.size)
        if full % parallel.size:
            length = -(-length // multiple) * multiple
        length = -(-length // unit) * unit
        return cls(full, min(parallel.rank * length, full), length)

    @property
    def held(self) -> int:
        """Features that are not padding."""
        return min(self.length, self.full - self.start)

    @classmethod
    def of_heads(cls, heads: int, head_dim: int, parallel: TensorParallel) -> Slice:
        """An equal share of whole heads. With fewer heads than ranks, neighbouring ranks hold the
        same head. Raises ValueError if neither number divides the other.
        """
        if heads >= parallel.size:
            if heads % parallel.size:
                raise ValueError(f"{heads} heads cannot be split over {parallel.size} ranks")
            return cls.of_rank(heads * head_dim, parallel)
        if parallel.size % heads:
            raise ValueError(f"{heads} heads cannot be shared by {parallel.size} ranks")
        head = parallel.rank // (parallel.size // heads)
        return cls(heads * head_dim, head * head_dim, head_dim)
