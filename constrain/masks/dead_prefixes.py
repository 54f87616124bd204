"""Finds the prefixes of an item that only repeated items could complete, once another item has
ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from formgate.constrain.masks.json_position import Siblings
from formgate.constrain.masks.token_bytes import TokenBytes

TERMINATORS = (b",", b"]", b" ", b"\n", b"\t", b"\r")
_CLOSERS = (b"]", b"}")
_LIKELY = b"a0"  # to come next in a text or a number
_STRIDE = 16  # bytes between two states that are kept
_MAX_FOLLOWED = 1024  # bytes of an item; the guards inside of a longer one are not looked into
_MAX_LOOKBACK = 256  # prefixes of an item that are searched for another way


class Follower(Protocol):
    """Follows an item from its beginning, one-byte tokens only, under the guards inside of it."""

    def accept(self, token_id: int) -> None: ...

    def allow(self, row: NDArray[np.int32]) -> None:
        """Fill a mask, which may be all zeros. Raises ValueError if the grammar exceeds a limit."""
        ...

    def copy(self) -> Follower: ...


class DeadPrefixes:
    def __init__(self, tokens: TokenBytes) -> None:
        self._tokens = tokens
        size = len(tokens.of_token)
        self._mask = np.zeros(-(-size // 32), dtype=np.uint32)

    def add(
        self,
        matcher: LLMatcher,
        siblings: Siblings,
        text: bytes,
        *,
        bare: bool,
        inner: Callable[[], Follower] | None,
    ) -> None:
        """Add the dead prefixes of the item `text`, from the longest, to `siblings`; of those that
        force the rest, not all. Visits at most `_MAX_LOOKBACK` prefixes.

        `matcher` is at the beginning of the item. `bare`: the byte after the item ends it. `inner`:
        begins to follow the item; None if nothing inside is guarded.
        """
        single = self._tokens.single
        for byte in text:
            if byte not in single or not matcher.consume_token(single[byte]):
                return
        if len(text) > _MAX_FOLLOWED:
            inner = None
        end = len(text) if bare else len(text) - 1
        if not bare:
            matcher.rollback(1)
        followers: list[Follower] = []
        length = end
        leap = 1  # bytes to go back
        for _ in range(_MAX_LOOKBACK):
            prefix = text[:length]
            if inner is None:
                if self._goes_on(matcher, siblings, prefix):
                    return
                following = self._first_bytes(matcher)
            else:
                if length < end and not followers:
                    # Most often the first prefix is not dead, and no other has to be kept.
                    followers = self._follow(inner(), prefix)
                following = self._allowed_bytes(self._after(followers or [inner()], prefix))
            none: tuple[bytes, ...] = ()
            if bare and length == end:
                none = TERMINATORS
            elif not length:
                none = _CLOSERS  # the first item may be left out, but not behind a comma
            if any(
                not siblings.is_dead(prefix + (way := bytes((byte,)))) and way not in none
                for byte in following
            ):
                return
            siblings.add_dead(prefix)
            if not length:
                return
            leap = self._go_back(matcher, prefix, leap)
            length -= leap
            siblings.add_dead(text[: length + 1])
            leap *= 2

    def _go_back(self, matcher: LLMatcher, prefix: bytes, leap: int) -> int:
        """Roll the matcher back by at most `leap` bytes, over which the grammar has no other way,
        and at least by one. Returns the number of bytes."""
        leap = min(leap, len(prefix))
        matcher.rollback(leap)
        if leap == 1 or matcher.compute_ff_bytes().startswith(prefix[-leap:]):
            return leap
        for byte in prefix[len(prefix) - leap : -1]:
            matcher.consume_token(self._tokens.single[byte])
        return 1

    def _follow(self, follower: Follower, text: bytes) -> list[Follower]:
        """The states after each `_STRIDE` bytes of `text`."""
        followers = [follower]
        for start in range(0, len(text) - _STRIDE, _STRIDE):
            follower = follower.copy()
            self._feed(follower, text[start : start + _STRIDE])
            followers.append(follower)
        return followers

    def _after(self, followers: list[Follower], prefix: bytes) -> Follower:
        """The state after `prefix`, from the last of those before it."""
        at = min(len(prefix) // _STRIDE, len(followers) - 1)
        follower = followers[at].copy()
        self._feed(follower, prefix[at * _STRIDE :])
        return follower

    def _feed(self, follower: Follower, text: bytes) -> None:
        for byte in text:
            follower.accept(self._tokens.single[byte])

    def _goes_on(self, matcher: LLMatcher, siblings: Siblings, prefix: bytes) -> bool:
        """True if one of a few likely bytes may come next: a quick test before a full mask."""
        return any(
            (token_id := self._tokens.single.get(byte)) is not None
            and not siblings.is_dead(prefix + bytes((byte,)))
            and matcher.validate_tokens([token_id]) == 1
            for byte in _LIKELY
        )

    def _first_bytes(self, matcher: LLMatcher) -> NDArray[np.uint8]:
        matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        return self._beginning(self._mask)

    def _allowed_bytes(self, follower: Follower) -> NDArray[np.uint8]:
        mask = np.zeros_like(self._mask)  # a follower within may use the other
        follower.allow(mask.view(np.int32))
        return self._beginning(mask)

    def _beginning(self, mask: NDArray[np.uint32]) -> NDArray[np.uint8]:
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
        return np.unique(self._tokens.first[np.flatnonzero(bits[: len(self._tokens.first)])])
