"""The elements that must differ, found in a text while it is written, byte by byte."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from formgate.constrain.masks.json_position import JsonPosition, semantic_key
from formgate.constrain.rules.guard_plan import GuardPlan, Place

EVERYWHERE = GuardPlan((Place(True, True, {}, (0,), (), (0,)),))  # items and names, at any depth


def value(r: Random, depth: int = 0) -> Any:
    kind = r.random()
    if depth < 3 and kind < 0.35:
        return [value(r, depth + 1) for _ in range(r.randint(0, 3))]
    if depth < 3 and kind < 0.7:
        return {r.choice(["", "a", 'b"', "\\", "[{,"]): value(r, depth + 1) for _ in range(3)}
    return r.choice(["", "x, ]", '"', "\\", "é", 0, -1.5, 1e30, True, None])


def elements(whole: Any, spaced: Any, *, is_item: bool = False) -> list[str]:
    """In the order in which they end. Where a number ends with its list, and that is an item too,
    it is the list's end that is told: the number's was known one byte before.
    """
    found = []
    if isinstance(whole, list):
        for at, item in enumerate(whole):
            found += elements(item, spaced, is_item=True)
            bare = not isinstance(item, str | list | dict)
            if not (bare and is_item and at == len(whole) - 1):
                found.append(spaced(item))
    elif isinstance(whole, dict):
        for name, member in whole.items():
            found += [spaced(name), *elements(member, spaced)]
    return found


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("seed", range(60))
def test_every_item_and_name_ends_once(seed: int, separators: tuple[str, str]) -> None:
    whole = [value(Random(seed))]

    def spaced(part: Any) -> str:
        return json.dumps(part, separators=separators)

    position = JsonPosition(EVERYWHERE)
    found = []
    for byte in spaced(whole).encode():
        frame = position.copy().feed(byte)  # a copy looks ahead, and moves nothing
        ended = position.feed(byte)
        assert (frame is None) == (ended is None)
        if ended is not None:
            text = position.element_text(ended).decode()
            if text[0] not in '"[{':
                text = text[:-1]  # what ended it
            found.append(text)
            ended.element = None
    assert position.ended
    assert found == elements(whole, spaced)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("1", "1.0", True),
        ("[1, 2]", "[1,2.0]", True),
        ('{"a": 1, "b": 2}', '{"b":2,"a":1}', True),
        ('"\\u00e9"', '"é"', True),
        ("true", "1", False),
        ('"1"', "1", False),
        ("[1, 2]", "[2, 1]", False),
        ("[true]", "[1]", False),
    ],
)
def test_equal_values_have_one_key(one: str, other: str, equal: bool) -> None:
    assert (semantic_key(one.encode()) == semantic_key(other.encode())) is equal
