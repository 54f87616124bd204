"""Finds the block that holds given tokens after a given prefix. Contents are keyed by a chained
hash, and every hit is confirmed token by token. Reference counts belong to the block pool.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence as ReadSequence
from dataclasses import dataclass
from hashlib import blake2b

DIGEST_SIZE = 16  # bytes


def root_hash(cache_salt: str | None, lora_key: str | None) -> bytes:
    """The hash that a sequence's chain starts from. It separates equal tokens of different adapters
    (their keys and values differ) and of different salts (they must not be shared).
    """
    return blake2b(repr((cache_salt, lora_key)).encode(), digest_size=DIGEST_SIZE).digest()


def block_hash(previous: bytes, token_ids: ReadSequence[int]) -> bytes:
    """Hash of a full block's tokens and, through `previous`, of every token before them."""
    return blake2b(array("q", token_ids).tobytes(), key=previous, digest_size=DIGEST_SIZE).digest()


@dataclass(frozen=True, slots=True)
class CachedContent:
    hash: bytes
    token_ids: list[int]


class PrefixCache:
    """One-to-one map between content hashes and blocks. If several blocks hold the same contents,
    the first one inserted is found.
    """

    def __init__(self) -> None:
        self._block_of: dict[bytes, int] = {}
        self._content_of: dict[int, CachedContent] = {}

    def __len__(self) -> int:
        return len(self._block_of)

    def __contains__(self, block: int) -> bool:
        return block in self._content_of

    def find(self, content_hash: bytes, token_ids: list[int]) -> int | None:
        """The block with this hash, if its tokens are equal too."""
        block = self._block_of.get(content_hash)
        if block is None or self._content_of[block].token_ids != token_ids:
            return None
        return block

    def insert(self, content_hash: bytes, token_ids: list[int], block: int) -> None:
        """Add a full, computed block. Does nothing if another block has the same hash."""
        if content_hash in self._block_of:
            return
        assert block not in self._content_of, f"block {block} is cached twice"
        self._block_of[content_hash] = block
        self._content_of[block] = CachedContent(content_hash, token_ids)

    def forget(self, block: int) -> None:
        content = self._content_of.pop(block, None)
        if content is not None:
            del self._block_of[content.hash]

    def check_integrity(self) -> None:
        assert len(self._block_of) == len(self._content_of)
        for block, content in self._content_of.items():
            assert self._block_of[content.hash] == block
