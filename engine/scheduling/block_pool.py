"""The blocks of the KV cache: the reference count of each, and the order in which free ones are
allocated. It knows block numbers only, neither sequences nor tensors.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable

from formgate.engine.scheduling.prefix_cache import PrefixCache


class BlockPool:
    """Every block is in exactly one of three states:

        free, empty   --allocate-->  in use (1..n references)
             ^                        |  ^
             |                 release|  |acquire (a prefix hit)
             |                        v  |
             +--allocate evicts--  free, cached (the prefix cache still finds it)

    Free blocks form one queue: empty ones first, then cached ones in the order of their release, so
    that the least recently used contents are evicted first.
    """

    def __init__(self, num_blocks: int) -> None:
        assert num_blocks > 0
        self.num_blocks = num_blocks
        self.cache = PrefixCache()
        self._ref_counts = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._free)

    def num_free_among(self, blocks: Iterable[int]) -> int:
        return sum(block in self._free for block in blocks)

    def allocate(self, count: int) -> list[int]:
        """Take `count` free blocks, one reference each; evicts their cached contents."""
        assert 0 <= count <= len(self._free), f"{count} of {len(self._free)} free blocks"
        blocks = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in blocks:
            self.cache.forget(block)
            self._ref_counts[block] = 1
        return blocks

    def acquire(self, blocks: Iterable[int]) -> None:
        """Add a reference to each of these cached blocks."""
        for block in blocks:
            if self._ref_counts[block] == 0:
                del self._free[block]
            self._ref_counts[block] += 1

    def release(self, blocks: list[int]) -> list[int]:
        """Drop a reference to each block of a sequence. Returns the blocks that became free.

        The last block is freed first, so that no prefix is evicted before its continuation.
        """
        freed: list[int] = []
        for block in reversed(blocks):
            self._ref_counts[block] -= 1
            assert self._ref_counts[block] >= 0, f"block {block} may be freed twice"
            if self._ref_counts[block] == 0:
                freed.append(block)
                self._free[block] = None
                if block not in self.cache:
                    self._free.move_to_end(block, last=False)
        return freed

    def forget(self, blocks: Iterable[int]) -> None:
        """Remove free blocks from the prefix cache."""
        for block in blocks:
            assert block in self._free
            self.cache.forget(block)
            self._free.move_to_end(block, last=False)

    def check_integrity(self, tables: Iterable[list[int]]) -> None:
        """Assert that reference counts match `tables`, the block tables of all sequences."""
        references = Counter(block for table in tables for block in table)
        for block, count in enumerate(self._ref_counts):
            assert count == references[block], f"block {block}: {count}, not {references[block]}"
            assert (block in self._free) == (count == 0), f"block {block} is free and in use"
        self.cache.check_integrity()
