"""The guard that siblings differ (`uniqueItems`, and the names of one object), which no
context-free mask can enforce. It removes the tokens that complete a repeated sibling, and those
after which only repeated siblings could be completed, so that it never enters a dead end.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from formgate.constrain.masks.dead_prefixes import TERMINATORS, DeadPrefixes
from formgate.constrain.masks.json_position import Frame, JsonPosition, Siblings, semantic_key
from formgate.constrain.masks.json_starts import JsonStarts
from formgate.constrain.masks.matcher import GrammarConstraint, Prepared, address_of
from formgate.constrain.masks.names import NameGuard
from formgate.constrain.masks.reorderings import reorderings
from formgate.constrain.masks.text_before import JSON_END
from formgate.constrain.masks.token_bytes import TokenSet, Words, forbid
from formgate.constrain.rules.guard_plan import GuardPlan

# What an item consists of: the plan, and the places that the item may have in it. Empty: nothing
# inside of it is guarded.
Within = tuple[GuardPlan, tuple[int, ...]] | tuple[()]


class NoneLeft(ValueError):
    """Every token that the grammar allows would lead to a repetition only."""


class GuardedConstraint:
    """Satisfies the engine's `TokenConstraint`. `starts` finds where guarded JSON texts begin."""

    closed = False  # it never ends an answer early

    def __init__(
        self,
        grammar: GrammarConstraint,
        names: NameGuard,
        starts: JsonStarts,
    ) -> None:
        self._grammar = grammar
        self._matcher = grammar.matcher  # the same that `grammar` moves
        self._mask_bytes = grammar.mask_bytes
        self._tokens = names.tokens
        self._of_token = names.tokens.of_token
        self._is_plain = names.tokens.is_plain
        self._names = names
        self._only_names = names.only_names
        self._starts = starts
        self._dead = DeadPrefixes(names.tokens)
        self._accepted: list[int] = []
        self._no_anchors: set[tuple[int, int]] = set()  # tokens accepted, bytes of the last one
        # The siblings after an item: by tokens accepted, the item's offset and its text.
        self._last: dict[tuple[int, int, bytes], Siblings | None] = {}
        self._begin()

    def _begin(self) -> None:
        self._before = b""  # suffix of the text that may hold the beginning of an anchor
        self._position: JsonPosition | None = None
        self._element_starts: dict[int, LLMatcher | None] = {}  # by depth
        if self._starts.at_once is not None:
            self._position = JsonPosition(self._starts.at_once)

    def fill_bitmask(self, row: NDArray[np.int32]) -> bool:
        """Fill as the grammar does, without the tokens that would repeat a sibling. Raises
        ValueError if the grammar exceeds a limit, or no token is left.
        """
        self._matcher.unsafe_compute_mask_ptr(address_of(row), self._mask_bytes)
        return self.finish_bitmask(row)

    def prepared(self) -> Prepared:
        return self._grammar.prepared()

    def finish_bitmask(self, row: NDArray[np.int32]) -> bool:
        self._grammar.finish_bitmask(row)
        position = self._position
        if position is not None:
            if position.frames[-1].at_key or not self._only_names:
                self._names.narrow(row, position)
            if position.may_differ:
                self._narrow_items(row, position)
                if position.differing and not row.any():
                    raise NoneLeft("no value is left that differs from its siblings")
        return True

    def allow(self, row: NDArray[np.int32]) -> None:
        """`fill_bitmask`, but the row may be left without a token."""
        try:
            self.fill_bitmask(row)
        except NoneLeft:
            row[:] = 0

    def _narrow_items(self, row: NDArray[np.int32], position: JsonPosition) -> None:
        words = row.view(np.uint32)
        if not position.differing:  # there are always more names, but an array may begin
            self._forbid_repeating(words, position, self._tokens.items_within)
            return
        for depth, frame in enumerate(position.frames):
            if frame.differ and (frame.siblings.dead or frame.siblings.values):
                self._forbid_in(words, position, frame, depth)
        crossing = self._tokens.crossing_string if position.in_string else self._tokens.crossing
        self._forbid_repeating(words, position, crossing)

    def _forbid_repeating(self, words: Words, position: JsonPosition, tokens: TokenSet) -> None:
        for token_id in tokens.allowed(words).tolist():
            if self._repeats(position, self._tokens.of_token[token_id]):
                forbid(words, (token_id,))

    def _forbid_in(
        self, words: NDArray[np.uint32], position: JsonPosition, frame: Frame, depth: int
    ) -> None:
        if frame.element is None:
            if depth == len(position.frames) - 1:
                self._forbid_next(words, frame.siblings)
            return
        text = position.element_text(frame)
        for rest in frame.siblings.dead_after(text):
            if rest:
                forbid(words, self._tokens.beginning_with(rest))
        if depth == len(position.frames) - 2 and not position.in_string:
            for closing in (b"}", b"]"):
                if frame.siblings.values and _equals_one(frame.siblings, text + closing):
                    forbid(words, self._tokens.beginning_with(closing))

    def _forbid_next(self, words: NDArray[np.uint32], siblings: Siblings) -> None:
        """Forbid tokens before an element begins."""
        if siblings.is_dead(b""):
            forbid(words, self._tokens.beginning_with(b","))
            return
        for dead in siblings.dead_after(b""):
            for lead in (b"", b" "):
                forbid(words, self._tokens.beginning_with(lead + dead))

    def _repeats(self, position: JsonPosition, token: bytes) -> bool:
        """Whether a token that runs over the end of an element repeats one, or asks for another
        where none is left.
        """
        base = len(position.text)
        position = position.copy()
        fresh: dict[Siblings, set[bytes]] = {}  # by identity
        then: dict[Siblings, Siblings] = {}  # once what has ended in the token counts too
        last: tuple[Frame, int] | None = None  # whose element has ended, and where it began
        for byte in token:
            if position.ended:
                return False
            ended = position.feed(byte)
            if ended is not None and ended.element is not None:
                last = (ended, ended.element)
            if byte == 0x2C and last is not None and not position.in_string:
                begun = token[: last[1] - base] if last[1] >= base else None
                behind = self._behind(position, *last, begun)
                if behind is not None:
                    if behind.is_dead(b""):
                        return True  # it is the last
                    then[last[0].siblings] = behind
                last = None
            if ended is not None:
                text = position.element_text(ended).rstrip(b", \n\t\r")
                text = text[:-1] if byte == 0x5D and not text.startswith(b"[") else text
                ended.element = None
                if text[:1] in (b"[", b"{") and _equals_one(ended.siblings, text):
                    return True
                seen = fresh.setdefault(ended.siblings, set())
                if text in seen or ended.siblings.is_dead(text):
                    return True
                if any(ended.siblings.is_dead(text + end) for end in (b",", b"]")):
                    return True
                seen.add(text)
            for frame in position.frames:
                if frame.differ and frame.element is not None:
                    begun = position.element_text(frame)
                    known = then.get(frame.siblings, frame.siblings)
                    if known.is_dead(begun) or frame.siblings.is_dead(begun):
                        return True
        return False

    def _behind(
        self, position: JsonPosition, frame: Frame, began: int, begun: bytes | None
    ) -> Siblings | None:
        """The siblings after an item that a comma just ended; None if unknown. `begun`: the part of
        the current token before the item; None: the item began in an earlier token.
        """
        depth = next((i for i, one in enumerate(position.frames) if one is frame), -1)
        if frame.is_object or depth < 0 or not position.next_is_alike(frame):
            return None
        text = bytes(position.text[began:]).rstrip(b", \n\t\r")
        place = (len(self._accepted), began, text)
        if place not in self._last:
            if self._last and next(iter(self._last))[0] != len(self._accepted):
                self._last.clear()  # entries of earlier masks
            self._last[place] = self._with_ended(position, frame, depth, text, begun)
        return self._last[place]

    def _with_ended(
        self, position: JsonPosition, frame: Frame, depth: int, text: bytes, begun: bytes | None
    ) -> Siblings | None:
        start = self._matcher if begun is not None else self._element_starts.get(depth)
        if start is None:
            return None
        matcher = start.deep_copy()
        for byte in begun or b"":
            token_id = self._tokens.single.get(byte)
            if token_id is None or not matcher.consume_token(token_id):
                return None
        siblings = frame.siblings.copy()
        bare = text[:1] not in (b'"', b"[", b"{")
        siblings.add_dead(text)
        if bare:
            for end in TERMINATORS:
                siblings.add_dead(text + end)
        self._find_dead(matcher, siblings, text, position.inside(frame, text), bare=bare)
        return siblings

    def accept(self, token_id: int) -> None:
        """Raises ValueError if the grammar does not allow the token."""
        if not self._matcher.consume_token(token_id):
            raise self._grammar.refused(token_id)
        self._accepted.append(token_id)
        position = self._position
        if position is not None and position.in_plain_text and self._is_plain[token_id]:
            position.text += self._of_token[token_id]
        else:
            self._follow(token_id)

    def _follow(self, token_id: int, *, replayed: bool = False) -> None:
        token = self._of_token[token_id]
        position = self._position
        if position is not None and token_id in self._tokens.special_ids:
            self._before = self._starts.kept(self._before + bytes(position.text))
            position = self._position = None
        begun = 0  # bytes already fed
        if position is None:
            if not self._starts.may_end_in(self._before, token):
                self._before = self._starts.kept(self._before + token)
                return
        elif (
            position.begun and not position.may_differ and len(position.text) > self._starts.longest
        ):
            begun, _ = position.feed_text(token)
            if not position.ended:
                return  # too long to turn out to be the beginning of a call
            self._look_behind(position)
        for at, byte in enumerate(token[begun:], begun):
            position = self._position
            if position is not None and not position.begun and not position.may_begin(byte):
                position = self._position = None
            if position is None:
                self._look_for_anchor(byte, token[: at + 1], replayed=replayed)
                continue
            if (ended := position.feed(byte)) is not None:
                self._element_ended(position, ended, replayed=replayed)
            if position.differing and not replayed:
                for depth, frame in enumerate(position.frames[-2:], len(position.frames[:-2])):
                    if frame.element == len(position.text) - 1:
                        self._element_starts[depth] = self._state_before(token[:at])
            self._look_behind(position)

    def _look_behind(self, position: JsonPosition) -> None:
        """Handle the end of the current JSON text, or its turning out to be part of an anchor."""
        if position.ended:
            # The text may be the beginning of a marker that looks like JSON.
            self._before = self._starts.kept(self._before + bytes(position.text))
            plan = self._starts.behind(JSON_END)
            self._position = None if plan is None else JsonPosition(plan)
        elif (plan := self._starts.inside(self._before, position.text)) is not None:
            self._before = self._starts.kept(self._before + bytes(position.text))
            self._position = JsonPosition(plan)

    def _state_before(self, begun: bytes) -> LLMatcher | None:
        """The grammar's state inside the token just accepted, after its bytes `begun`."""
        matcher = self._matcher.deep_copy()
        matcher.rollback(1)
        single = self._tokens.single
        for byte in begun:
            if byte not in single or not matcher.consume_token(single[byte]):
                return None
        return matcher

    def _look_for_anchor(self, byte: int, begun: bytes, *, replayed: bool) -> None:
        before = self._before + bytes((byte,))
        self._before = self._starts.kept(before)
        plan = self._starts.behind(before)
        if plan is None:
            return
        place = (len(self._accepted), len(begun))
        if not replayed and self._is_free_text(begun):
            self._no_anchors.add(place)
        if place not in self._no_anchors:
            self._position = JsonPosition(plan)

    def _is_free_text(self, begun: bytes) -> bool:
        """True if an anchor's text was written in free text: the grammar then allows bytes that
        cannot begin JSON.
        """
        # A special token cannot be replayed byte by byte.
        whole = begun == self._tokens.of_token[self._accepted[-1]]
        matcher = self._matcher if whole else self._state_before(begun)
        single = self._tokens.single
        return matcher is not None and all(
            byte in single and matcher.validate_tokens([single[byte]]) == 1 for byte in b"xQ#"
        )

    def _element_ended(self, position: JsonPosition, frame: Frame, *, replayed: bool) -> None:
        text = position.element_text(frame)
        bare = text[:1] not in (b'"', b"[", b"{")  # ended by the byte after it
        if bare:
            text = text[:-1]
        frame.element = None
        siblings = frame.siblings
        if text[:1] in (b"[", b"{"):
            siblings.values.add(semantic_key(text))
        if bare:
            for end in TERMINATORS:
                siblings.add_dead(text + end)
        else:
            siblings.add_dead(text)
        depth = next((i for i, one in enumerate(position.frames) if one is frame), -1)
        start = None if replayed else self._element_starts.get(depth)
        if start is not None and position.next_is_alike(frame):
            within = position.inside(frame, text)
            self._find_dead(start, siblings, text, within, bare=bare)

    def _find_dead(
        self, matcher: LLMatcher, siblings: Siblings, text: bytes, within: Within, *, bare: bool
    ) -> None:
        """`matcher` is at the beginning of `text`."""
        texts, inner = [text], None
        if within:
            texts += reorderings(text, *within)
            inner = partial(self._inside, matcher, within)
            for other in texts:
                siblings.add_dead(other)
        for other in texts:
            self._dead.add(matcher.deep_copy(), siblings, other, bare=bare, inner=inner)

    def _inside(self, matcher: LLMatcher, within: Within) -> GuardedConstraint:
        """Follows an item as a JSON text of its own. `matcher` is at its beginning."""
        grammar = self._grammar.with_matcher(matcher.deep_copy())
        inside = GuardedConstraint(grammar, self._names, JsonStarts(()))
        inside._position = JsonPosition(*within)
        return inside

    def forced_tokens(self) -> list[int]:
        """Empty where siblings must differ: a forced text may repeat a sibling."""
        position = self._position
        if position is not None and position.differing:
            return []
        return self._grammar.forced_tokens()

    def rollback(self, num_tokens: int) -> None:
        self._grammar.rollback(num_tokens)
        kept = self._accepted[: len(self._accepted) - num_tokens]
        self._accepted = []
        self._last.clear()
        self._no_anchors = {place for place in self._no_anchors if place[0] <= len(kept)}
        self._begin()
        for token_id in kept:  # without past grammar states, only exact repeats are recognized
            self._accepted.append(token_id)
            self._follow(token_id, replayed=True)

    def copy(self) -> GuardedConstraint:
        new = GuardedConstraint(self._grammar.copy(), self._names, self._starts)
        new._accepted = self._accepted[:]
        new._before = self._before
        new._no_anchors = set(self._no_anchors)
        new._position = None if self._position is None else self._position.copy(siblings=True)
        new._element_starts = dict(self._element_starts)
        return new

    def follows(self, token_ids: list[int]) -> bool:
        if not self._grammar.follows(token_ids):
            return False
        if self._position is None:
            return True
        text = b"".join(self._tokens.of_token[token_id] for token_id in token_ids)
        position = self._position
        return not (position.may_differ and self._repeats(position, text)) and not (
            self._names.breaks(position, text)
        )

    def is_terminated(self) -> bool:
        return self._grammar.is_terminated()


def _equals_one(siblings: Siblings, text: bytes) -> bool:
    try:
        return semantic_key(text) in siblings.values
    except ValueError:
        return False
