"""How keys and values lie in the blocks of the cache. An attention brings its own layout; the block
pool counts blocks, and the rest of the engine asks for bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

LayerCache = tuple[torch.Tensor, ...]  # of one layer; dimension 0 of each tensor counts blocks


class KVLayout(Protocol):
    @property
    def block_size(self) -> int:
        """Tokens of a block."""
        ...

    @property
    def bytes_per_block(self) -> int:
        """Of all layers together."""
        ...

    def allocate(self, num_blocks: int, device: torch.device) -> list[LayerCache]:
        """One cache a layer. Zeros, not garbage: a masked value is multiplied by 0, and 0 times
        NaN is NaN.
        """
        ...


@dataclass(frozen=True, slots=True)
class HeadsLayout:
    """Per layer keys and values, each [num_blocks, block_size, num_kv_heads, head_dim]."""

    num_layers: int
    block_size: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def bytes_per_block(self) -> int:
        per_token = 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.dtype.itemsize
        return self.block_size * per_token

    def allocate(self, num_blocks: int, device: torch.device) -> list[LayerCache]:
        shape = (num_blocks, self.block_size, self.num_kv_heads, self.head_dim)
        return [
            (
                torch.zeros(shape, dtype=self.dtype, device=device),
                torch.zeros(shape, dtype=self.dtype, device=device),
            )
            for _ in range(self.num_layers)
        ]
