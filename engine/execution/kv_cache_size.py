"""The size of the KV cache in blocks, and the errors for the operator if too few fit. The state of
blocks belongs to the block pool.
"""

from __future__ import annotations

from dataclasses import dataclass

from formgate.engine.attention.kv_layout import KVLayout
from formgate.engine.errors import EngineStartError

CPU_CACHE_BYTES = 1 << 30
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class KVCacheSize:
    num_blocks: int
    max_model_len: int  # tokens; lowered to the cache's capacity if it was not given


def num_blocks_for(num_tokens: int, block_size: int) -> int:
    return -(-num_tokens // block_size)


def size_kv_cache(
    layout: KVLayout,
    available_bytes: int,
    *,
    max_model_len: int,
    max_model_len_given: bool,
    max_num_seqs: int,
    more_memory: str,
) -> KVCacheSize:
    """The number of blocks that fit, at most those that `max_num_seqs` sequences can fill.

    If one sequence of `max_model_len` does not fit, a length given by the user raises
    EngineStartError, and the model's own length is lowered. `more_memory` is the advice in the
    message: the flag that gives the cache more memory.
    """
    useful = max_num_seqs * num_blocks_for(max_model_len, layout.block_size)
    num_blocks = min(available_bytes // layout.bytes_per_block, useful)
    if num_blocks < 1:
        needed = layout.bytes_per_block - available_bytes
        raise EngineStartError(
            f"No memory is left for the KV cache ({needed / GIB:.2f} GiB more are needed): "
            f"{more_memory}"
        )
    capacity = num_blocks * layout.block_size
    if capacity < max_model_len and max_model_len_given:
        raise EngineStartError(
            f"The KV cache has room for {capacity} tokens, less than --max-model-len "
            f"{max_model_len}: lower --max-model-len to {capacity}, or {more_memory}"
        )
    return KVCacheSize(num_blocks, min(max_model_len, capacity))
