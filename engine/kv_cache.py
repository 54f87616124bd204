"""How large the KV cache is: bytes of a block, blocks that fit, and what to tell the operator when
too few do. It holds no block's state; that is the block pool's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from formgate.engine.errors import EngineStartError

KVCaches = list[tuple[torch.Tensor, torch.Tensor]]

CPU_CACHE_BYTES = 1 << 30
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class KVCacheShape:
    num_layers: int
    block_size: int  # tokens
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def bytes_per_block(self) -> int:
        per_token = 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.dtype.itemsize
        return self.block_size * per_token

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def allocate(self, num_blocks: int, device: torch.device) -> KVCaches:
        """Per layer: keys and values, each [num_blocks, block_size, num_kv_heads, head_dim].

        Zeros, not garbage: a masked value is multiplied by 0, which would make NaN of a NaN.
        """
        shape = (num_blocks, self.block_size, self.num_kv_heads, self.head_dim)
        return [
            (
                torch.zeros(shape, dtype=self.dtype, device=device),
                torch.zeros(shape, dtype=self.dtype, device=device),
            )
            for _ in range(self.num_layers)
        ]


@dataclass(frozen=True, slots=True)
class KVCacheSize:
    num_blocks: int
    max_model_len: int


def size_kv_cache(
    shape: KVCacheShape,
    available_bytes: int,
    *,
    max_model_len: int,
    max_model_len_given: bool,
    max_num_seqs: int,
    more_memory: str,
) -> KVCacheSize:
    """As many blocks as fit, up to what all sequences could fill. One sequence of `max_model_len`
    must fit: a length that the user gave is an error if it does not, the model's own is lowered.

    `more_memory` says which flag leaves more to the cache.
    """
    useful = max_num_seqs * shape.blocks_for(max_model_len)
    num_blocks = min(available_bytes // shape.bytes_per_block, useful)
    if num_blocks < 1:
        needed = shape.bytes_per_block - available_bytes
        raise EngineStartError(
            f"No memory is left for the KV cache ({needed / GIB:.2f} GiB more are needed): "
            f"{more_memory}"
        )
    capacity = num_blocks * shape.block_size
    if capacity < max_model_len and max_model_len_given:
        raise EngineStartError(
            f"The KV cache has room for {capacity} tokens, less than --max-model-len "
            f"{max_model_len}: lower --max-model-len to {capacity}, or {more_memory}"
        )
    return KVCacheSize(num_blocks, min(max_model_len, capacity))
