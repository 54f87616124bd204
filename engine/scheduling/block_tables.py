"""The block table of each sequence: prefix hits at admission, growth before a step, hashing after
it, release at the end. It works on lists of integers only.
"""

from __future__ import annotations

from formgate.engine.scheduling.block_pool import BlockPool
from formgate.engine.scheduling.prefix_cache import block_hash, root_hash
from formgate.engine.sequence import Sequence

# Ownership of a running sequence's tokens, block by block:
#
#   0            num_cached        len(block_hashes)*      num_computed    + num_scheduled
#   |---- shared ----|---- own, full, cached ----|-- own, not full --|---- own, reserved ----|
#   |  found in the  |  hashed after the step    |  never found by   |  being written by the |
#   |  prefix cache  |  that filled them, then   |  other sequences  |  current step         |
#   |                |  shared with others       |                   |                       |
#
# The sequence holds a reference on all of them from admission to release, except for those that a
# window has passed (`drop_unreached`). A full block is never
# written again, so sharing needs no copy. (*) at least: a hash may be computed before its block is.


class BlockTables:
    def __init__(
        self, pool: BlockPool, block_size: int, *, prefix_caching: bool, window: int = 0
    ) -> None:
        """`window`: keys that a token attends to in every layer, itself included; 0: all."""
        self.pool = pool
        self.block_size = block_size
        self.prefix_caching = prefix_caching
        self.window = window

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def find_prefix(self, sequence: Sequence) -> list[int]:
        """Cached blocks of the longest known prefix of a sequence. Takes no reference.

        Leaves at least two tokens to compute. Sampling needs the logits of the last one, and a
        single token would run through the decode kernels, which round differently from prefill.
        """
        found: list[int] = []
        if not self.finds_prefix_of(sequence):
            return found
        for index in range((sequence.num_tokens - 2) // self.block_size):
            block = self.pool.cache.find(
                self.hash_of(sequence, index), self._tokens_of(sequence, index)
            )
            if block is None:
                break
            found.append(block)
        return found

    def finds_prefix_of(self, sequence: Sequence) -> bool:
        """True if `find_prefix` may return blocks for the sequence."""
        # Logprobs of the prompt need its hidden states, which are not cached.
        return self.prefix_caching and not sequence.wants_prompt_logprobs

    def hash_of(self, sequence: Sequence, index: int) -> bytes:
        """Hash of the sequence's full block at `index`; computed once."""
        hashes = sequence.block_hashes
        while len(hashes) <= index:
            previous = (
                hashes[-1] if hashes else root_hash(sequence.cache_salt, sequence.adapter_content)
            )
            hashes.append(block_hash(previous, self._tokens_of(sequence, len(hashes))))
        return hashes[index]

    def can_grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """True if there is room for the first `num_tokens` tokens."""
        missing = self.num_blocks_for(num_tokens) - len(sequence.block_table)
        return missing <= self.pool.num_free

    def grow(self, sequence: Sequence, num_tokens: int) -> None:
        """Allocate the blocks missing for the first `num_tokens` tokens."""
        missing = self.num_blocks_for(num_tokens) - len(sequence.block_table)
        if missing > 0:
            sequence.block_table += self.pool.allocate(missing)

    def shrink(self, sequence: Sequence, num_tokens: int) -> None:
        """Release the blocks past the first `num_tokens` tokens. No other sequence holds them: they
        belong to tokens that were computed ahead and dropped.
        """
        kept = self.num_blocks_for(num_tokens)
        assert kept >= sequence.num_published_blocks
        if kept < len(sequence.block_table):
            self.pool.release(sequence.block_table[kept:])
            # A new list, because the packer assumes that a list it has seen only grows.
            sequence.block_table = sequence.block_table[:kept]

    def share(self, sequence: Sequence, prefix: list[int]) -> None:
        """Start the sequence's table with the blocks that `find_prefix` returned."""
        assert not sequence.block_table
        self.pool.acquire(prefix)
        sequence.block_table = list(prefix)
        sequence.num_computed_tokens = len(prefix) * self.block_size
        sequence.num_published_blocks = len(prefix)

    def cache_computed(self, sequence: Sequence) -> None:
        """Add the blocks full of computed tokens to the prefix cache. A block with a pending token
        is added once the token is known.
        """
        if not self.prefix_caching:
            return
        filled = min(sequence.num_computed_tokens, len(sequence.token_ids)) // self.block_size
        for index in range(sequence.num_published_blocks, filled):
            self.pool.cache.insert(
                self.hash_of(sequence, index),
                self._tokens_of(sequence, index),
                sequence.block_table[index],
            )
        sequence.num_published_blocks = max(filled, sequence.num_published_blocks)

    def drop_unreached(self, sequence: Sequence) -> None:
        """Release the blocks that the window of no token to come reaches. The prefix cache still
        finds them. In their places the table names a block that the sequence holds, as kernels may
        read keys that they mask.
        """
        if not self.window:
            return
        first_key = sequence.num_computed_tokens - self.window + 1  # of the next token
        first_key = min(first_key, len(sequence.token_ids))  # no block without its pending token
        reached = min(first_key // self.block_size, len(sequence.block_table) - 1)
        if reached <= sequence.num_unreached_blocks:
            return
        table = sequence.block_table
        self.pool.release(table[sequence.num_unreached_blocks : reached])
        # A new list, because the packer assumes that a list it has seen only grows.
        sequence.block_table = [table[reached]] * reached + table[reached:]
        sequence.num_unreached_blocks = reached

    def release(self, sequence: Sequence) -> list[int]:
        """Release all blocks. Returns those that became free; the prefix cache still finds them."""
        freed = self.pool.release(sequence.held_blocks)
        sequence.num_unreached_blocks = 0
        # A new list, because the packer assumes that a list it has seen only grows.
        sequence.block_table = []
        sequence.num_computed_tokens = 0
        sequence.num_published_blocks = 0
        return freed

    def _tokens_of(self, sequence: Sequence, index: int) -> list[int]:
        return sequence.token_ids[index * self.block_size : (index + 1) * self.block_size]
