"""Stop strings in a stream of text: lets through what cannot become one, holds back what may, and
cuts at the first that is complete. Where the stream is cut into pieces makes no difference. Time
and memory are linear in the stop strings and in the text (Aho and Corasick's automaton).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

_LONG = 500  # characters


class StopAutomaton:
    """The stop strings of one request. Its choices share it.

    State 0 is the root of the strings' trie. A state's suffix is the longest proper suffix of its
    text that is a state too.
    """

    __slots__ = ("depths", "ends", "next", "suffixes")

    def __init__(self, stops: Sequence[str]) -> None:
        self.next: list[dict[str, int]] = [{}]
        self.depths = [0]  # characters of a state's text
        self.ends: list[str | None] = [None]  # the longest stop string that a state's text ends in
        for stop in stops:
            state = 0
            for character in stop:
                following = self.next[state].setdefault(character, len(self.next))
                if following == len(self.next):
                    self.next.append({})
                    self.depths.append(self.depths[state] + 1)
                    self.ends.append(None)
                state = following
            self.ends[state] = stop
        self.suffixes = [0] * len(self.next)
        waiting = deque(self.next[0].values())
        while waiting:
            state = waiting.popleft()
            for character, following in self.next[state].items():
                suffix = self.step(self.suffixes[state], character)
                self.suffixes[following] = suffix
                self.ends[following] = self.ends[following] or self.ends[suffix]
                waiting.append(following)

    def step(self, state: int, character: str) -> int:
        following = self.next[state].get(character)
        while following is None and state:
            state = self.suffixes[state]
            following = self.next[state].get(character)
        return following or 0


async def stop_automaton(stops: Sequence[str]) -> StopAutomaton | None:
    """Made off the event loop where it takes longer than half a millisecond."""
    if not stops:
        return None
    long = sum(map(len, stops)) > _LONG
    return await asyncio.to_thread(StopAutomaton, stops) if long else StopAutomaton(stops)


class StopStrings:
    """The state of one region of one answer. After `stopped`, it wants no more text."""

    __slots__ = ("_automaton", "_held", "_include", "_state", "stopped")

    def __init__(self, automaton: StopAutomaton, *, include: bool = False) -> None:
        self._automaton = automaton
        self._include = include
        self._state = 0
        self._held = ""  # the text of the state
        self.stopped: str | None = None

    def feed(self, text: str) -> str:
        """What may be shown now. Of several stop strings the one that is complete first wins, and
        of those that end together the longest."""
        assert self.stopped is None
        automaton, state = self._automaton, self._state
        whole = self._held + text
        for end, character in enumerate(text, len(self._held) + 1):
            state = automaton.step(state, character)
            if (stop := automaton.ends[state]) is not None:
                self.stopped = stop
                self._state, self._held = 0, ""
                return whole[: end if self._include else end - len(stop)]
        shown = len(whole) - automaton.depths[state]
        self._state, self._held = state, whole[shown:]
        return whole[:shown]

    def finish(self) -> str:
        """The text that was held back and has become no stop string."""
        held = self._held
        self._state, self._held = 0, ""
        return held
