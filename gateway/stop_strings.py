"""Stop strings in a stream of text: lets through what cannot become one, holds back what may, and
cuts at the first that is complete. Where the stream is cut into pieces makes no difference.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """The state of one region of one answer. After `stopped`, it wants no more text."""

    __slots__ = ("_beginnings", "_held", "_include", "_longest", "_stops", "stopped")

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self._stops = tuple(stops)
        self._include = include
        self._beginnings = {stop[:end] for stop in stops for end in range(1, len(stop))}
        self._longest = max(map(len, self._beginnings), default=0)
        self._held = ""
        self.stopped: str | None = None

    def feed(self, text: str) -> str:
        """What may be shown now. Of several stop strings the one that is complete first wins, and
        of those that end together the longest."""
        assert self.stopped is None
        if not self._stops:
            return text
        text = self._held + text
        end, start, stop = min(
            ((at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0),
            default=(0, 0, ""),
        )
        if stop:
            self.stopped = stop
            self._held = ""
            return text[: end if self._include else start]
        for length in range(min(self._longest, len(text)), 0, -1):
            if text[-length:] in self._beginnings:
                self._held = text[-length:]
                return text[:-length]
        self._held = ""
        return text

    def finish(self) -> str:
        """The text that was held back and has become no stop string."""
        held, self._held = self._held, ""
        return held
