"""Finds where in an answer a guarded JSON text begins: directly after an anchor, which is a fixed
text, or at the start of the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from formgate.constrain.rules.guard_plan import GuardPlan

_END = 8  # bytes of an anchor's suffix, which are searched for first


class JsonStarts:
    """`anchors`: the fixed texts, each with the plan of the JSON text after it; the empty anchor is
    the start of the answer. White space may follow an anchor.
    """

    def __init__(self, anchors: Sequence[tuple[bytes, GuardPlan]]) -> None:
        self.at_once = next((plan for anchor, plan in anchors if not anchor), None)
        self._anchors = sorted(
            ((anchor, plan) for anchor, plan in anchors if anchor),
            key=lambda one: -len(one[0]),
        )
        self._ends = {anchor[-_END:] for anchor, _ in self._anchors}
        self.longest = max((len(anchor) for anchor, _ in self._anchors), default=0)

    def kept(self, before: bytes) -> bytes:
        """The suffix of a text that may hold the beginning of an anchor."""
        return before[-self.longest :] if self.longest else b""

    def may_end_in(self, before: bytes, token: bytes) -> bool:
        """False only if no anchor ends within the token. A quick test that is seldom true."""
        text = before[1 - _END :] + token
        return any(end in text for end in self._ends)

    def behind(self, before: bytes) -> GuardPlan | None:
        """The plan of the longest anchor that ends a text, or None."""
        return next((plan for anchor, plan in self._anchors if before.endswith(anchor)), None)

    def inside(self, before: bytes, begun: bytes | bytearray) -> GuardPlan | None:
        """The plan of the text that follows if the current JSON text `begun` turns out to be a part
        of an anchor, or None. `before` precedes it.
        """
        if len(begun) > self.longest:
            return None
        text = before + begun
        least = len(begun.lstrip())
        return next(
            (
                plan
                for anchor, plan in self._anchors
                if len(anchor) >= least and text.endswith(anchor)
            ),
            None,
        )
