"""Where in an answer a guarded JSON text begins: right behind a fixed text, or where the answer
itself does.
"""

from __future__ import annotations

from collections.abc import Sequence

from formgate.constrain.rules.guard_plan import GuardPlan

_END = 8  # bytes by which a fixed text is first looked for


class JsonStarts:
    """`anchors`: the fixed texts, each with the plan of what follows; the empty one is where the
    answer begins. White space may stand between.
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
        """The part of a text in which an anchor may have begun."""
        return before[-self.longest :] if self.longest else b""

    def may_end_in(self, before: bytes, token: bytes) -> bool:
        """Whether an anchor may end within a token; quickly told, and seldom true."""
        text = before[1 - _END :] + token
        return any(end in text for end in self._ends)

    def behind(self, before: bytes) -> GuardPlan | None:
        """The plan of what follows a text."""
        return next((plan for anchor, plan in self._anchors if before.endswith(anchor)), None)

    def inside(self, before: bytes, begun: bytes | bytearray) -> GuardPlan | None:
        """The plan of what comes next, where the JSON text in hand turns out to be no text by
        itself, but the beginning of a call: `begun` is all of it so far, and `before` stands before
        it.
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
