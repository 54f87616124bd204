"""Layout of the KV cache's blocks in memory. Each kind of attention brings its own; the block pool
only counts blocks, and the rest of the engine only asks for bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

LayerCache = tuple[torch.Tensor, ...]  # of one layer; dimension 0 of each tensor is the block


class KVLayout(Protocol):
    @property
    def block_size(self) -> int:
        """Tokens per block."""
        ...

    @property
    def bytes_per_block(self) -> int:
        """Bytes of one block in all layers together."""
        ...

    @property
    def whole_prompts(self) -> bool:
        """True if a prompt costs less in one step than in chunks."""
        ...

    def allocate(self, num_blocks: int, device: torch.device) -> list[LayerCache]:
        """One zeroed cache per layer. Uninitialized memory may hold NaN, which survives the masked
        value's multiplication by 0.
        """
        ...


@dataclass(frozen=True, slots=True)
class HeadsLayout:
    """Two tensors per layer, keys and values: [num_blocks, block_size, num_kv_heads, head_dim]."""

    num_layers: int
    block_size: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def bytes_per_block(self) -> int:
        per_token = 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.dtype.itemsize
        return self.block_size * per_token

    @property
    def whole_prompts(self) -> bool:
        return False

    def allocate(self, num_blocks: int, device: torch.device) -> list[LayerCache]:
        shape = (num_blocks, self.block_size, self.num_kv_heads, self.head_dim)
        return [
            (
                torch.zeros(shape, dtype=self.dtype, device=device),
                torch.zeros(shape, dtype=self.dtype, device=device),
            )
            for _ in range(self.num_layers)
        ]


@dataclass(frozen=True, slots=True)
class LatentLayout:
    """One tensor per layer, [num_blocks, block_size, width]: a token's latent vector, then its
    rotary key.
    """

    num_layers: int
    block_size: int
    width: int
    dtype: torch.dtype

    @property
    def bytes_per_block(self) -> int:
        return self.block_size * self.num_layers * self.width * self.dtype.itemsize

    @property
    def whole_prompts(self) -> bool:
        return True  # the expanded form, see `LatentAttention`

    def allocate(self, num_blocks: int, device: torch.device) -> list[LayerCache]:
        shape = (num_blocks, self.block_size, self.width)
        return [
            (torch.zeros(shape, dtype=self.dtype, device=device),) for _ in range(self.num_layers)
        ]
