"""Cuts a turn that a template wrote at the regions of its calls: names, arguments, and what stands
between them. What moves with a call's content is a region; what stays is a marker.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from formgate.parsers.derivation.atoms import Atoms
from formgate.parsers.derivation.samples import FIRST, SECOND, Call, WrittenTurn

# Private characters in place of what a call's number, id or last key is in the text.
ID, NUMBER, KEY = "\ue000", "\ue001", "\ue002"
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class OneByOne:
    """What stands around arguments that are written one by one."""

    opening: str  # between the name and the first key
    key_to_value: str
    value_to_key: str


@dataclass(frozen=True)
class Regions:
    """head NAME to_arguments ARGUMENTS join NAME ... ARGUMENTS tail. `joins` is None for one call.
    Arguments are one JSON object, or `tagged`; `to_arguments` and `tail` then include their marks.
    """

    head: str
    to_arguments: str
    join: str | None
    tail: str
    tagged: OneByOne | None = None


def regions_of(turn: WrittenTurn, calls: Sequence[Call], atoms: Atoms) -> Regions | None:
    """None if the turn is not written in calls of one shape, each with its name first."""
    text = turn.text
    for call in calls:
        text = text.replace(call.id, ID)
    names = _places(text, [call.name for call in calls])
    if names is None:
        return None
    head = text[: names[0][0]]
    ends = [start for start, _ in names[1:]] + [len(text)]
    bodies = [text[end:then] for (_, end), then in zip(names, ends, strict=True)]
    cut = [_around_json(body, call) for body, call in zip(bodies, calls, strict=True)]
    tagged: OneByOne | None = None
    if any(each is None for each in cut):
        marks = [_around_tags(body, call) for body, call in zip(bodies, calls, strict=True)]
        found = [each[0] for each in marks if each is not None]
        if len(found) < len(marks) or len(set(found)) > 1:
            return None
        tagged = found[0]
        cut = [(tagged.opening, each[1]) for each in marks if each is not None]
    openings = [each[0] for each in cut if each is not None]
    behind = [each[1] for each in cut if each is not None]
    to_arguments = _as_one(openings, atoms)
    joins, tail = behind[:-1], behind[-1]
    join = _as_one(joins, atoms) if joins else None
    if to_arguments is None or (joins and join is None):
        return None
    if join is not None:
        head = _numbered_alike(head, join, atoms, from_end=True)
        tail = _numbered_alike(tail, join, atoms, from_end=False)
    return Regions(head, to_arguments, join, tail, tagged)


def _places(text: str, words: Sequence[str]) -> list[tuple[int, int]] | None:
    """Where the words stand, one behind the other."""
    places = []
    at = 0
    for word in words:
        start = text.find(word, at)
        if start < 0:
            return None
        at = start + len(word)
        places.append((start, at))
    return places


def _around_json(body: str, call: Call) -> tuple[str, str] | None:
    """The text before and behind the arguments, if they are one JSON object."""
    start = body.find("{")
    while start >= 0:
        try:
            value, end = _DECODER.raw_decode(body, start)
        except (ValueError, RecursionError):
            value, end = None, start
        if value == call.arguments:
            return body[:start], body[end:]
        start = body.find("{", start + 1)
    return None


def _around_tags(body: str, call: Call) -> tuple[OneByOne, str] | None:
    """The text around two arguments that are written one by one, and the text behind them."""
    words = [FIRST, call.arguments[FIRST], SECOND, call.arguments[SECOND]]
    places = _places(body, words)
    if places is None:
        return None
    between = [body[end:start] for (_, end), (start, _) in pairwise(places)]
    if between[0] != between[2]:
        return None
    behind = body[places[-1][1] :].replace(SECOND, KEY)
    opening = body[: places[0][0]]
    return OneByOne(opening, between[0], between[1].replace(FIRST, KEY)), behind


def value_opening(turn: WrittenTurn, key: str, value: str) -> str | None:
    """The text between a key and its value."""
    places = _places(turn.text, [key, value])
    return None if places is None else turn.text[places[0][1] : places[1][0]]


def _as_one(texts: Sequence[str], atoms: Atoms) -> str | None:
    """The text that all are, but for the number of their call."""
    split = [atoms.split(text) for text in texts]
    if len({len(each) for each in split}) != 1:
        return None
    parts = []
    for column in zip(*split, strict=True):
        if len(set(column)) == 1:
            parts.append(column[0])
        elif all(each.isdigit() for each in column):
            numbers = list(map(int, column))
            if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
                return None
            parts.append(NUMBER)
        else:
            return None
    return "".join(parts)


def _numbered_alike(text: str, pattern: str, atoms: Atoms, *, from_end: bool) -> str:
    """`text` with numbers marked where `pattern` has them, counted from the end or the start."""
    parts, marked = atoms.split(text), atoms.split(pattern)
    for place in range(min(len(parts), len(marked))):
        at = -1 - place if from_end else place
        if marked[at] == NUMBER and parts[at].isdigit():
            parts[at] = NUMBER
        elif marked[at] != parts[at]:
            break
    return "".join(parts)
