"""Which ranks run on which host: the same number on each, with rank 0, which leads, on node 0."""

from __future__ import annotations

from dataclasses import dataclass

from formgate.engine.config import EngineConfig
from formgate.engine.errors import EngineStartError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class RankLayout:
    size: int  # ranks of all nodes
    num_nodes: int
    node: int

    @classmethod
    def of(cls, config: EngineConfig) -> RankLayout:
        """Raises EngineStartError if the nodes cannot have equal numbers of ranks."""
        size, nodes = config.tensor_parallel_size, config.nnodes
        if not 0 <= config.node_rank < nodes:
            raise EngineStartError(
                f"--node-rank {config.node_rank} is not one of the {nodes} nodes: give each node "
                f"another number from 0 to {nodes - 1}"
            )
        if size % nodes:
            raise EngineStartError(
                f"--tensor-parallel-size {size} cannot be split over {nodes} nodes: it must be a "
                f"multiple of --nnodes"
            )
        return cls(size, nodes, config.node_rank)

    @property
    def local_size(self) -> int:
        """Ranks of one node."""
        return self.size // self.num_nodes

    @property
    def local_ranks(self) -> range:
        """Ranks of this node."""
        first = self.node * self.local_size
        return range(first, first + self.local_size)

    @property
    def remote_ranks(self) -> range:
        """Seen from node 0: the ranks of all other nodes."""
        return range(self.local_size, self.size)
