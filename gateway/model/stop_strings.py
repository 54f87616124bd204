"""Stop strings in a stream of text: holds back a suffix that may become a stop string, releases the
rest, and cuts at the first complete match, however the stream is divided into pieces. Time and
memory are linear in the stop strings and in the text (Aho-Corasick automaton).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

_LONG = 500  # characters


class StopAutomaton:
    """The automaton of one request's stop strings, shared by its choices.

    State 0 is the root of the trie. A state's suffix link is the longest proper suffix of its text
    that is also a state.
    """

    __slots__ = ("depths", "ends", "next", "suffixes")

    def __init__(self, stops: Sequence[str]) -> None:
        self.next: list[dict[str, int]] = [{}]
        self.depths = [0]  # characters of a state's text
        self.ends: list[str | None] = [None]  # longest stop string that a state's text ends with
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
    """Build the automaton, in a thread if that takes longer than half a millisecond."""
    if not stops:
        return None
    long = sum(map(len, stops)) > _LONG
    return await asyncio.to_thread(StopAutomaton, stops) if long else StopAutomaton(stops)


class StopStrings:
    """The search in one region of one answer. Feed no more text once `stopped` is set."""

    __slots__ = ("_automaton", "_held", "_include", "_state", "stopped")

    def __init__(self, automaton: StopAutomaton, *, include: bool = False) -> None:
        self._automaton = automaton
        self._include = include
        self._state = 0
        self._held = ""  # the text of the state
        self.stopped: str | None = None

    def feed(self, text: str) -> str:
        """The text to release. The stop string that completes first wins; of several that end at
        the same character, the longest."""
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
        """The text held back, which is no stop string."""
        held = self._held
        self._state, self._held = 0, ""
        return held
