from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formgate.gateway.model.stop_strings import StopAutomaton, StopStrings


def run(stops: list[str], parts: list[str], *, include: bool = False) -> tuple[str, str | None]:
    scanner = StopStrings(StopAutomaton(stops), include=include)
    shown = ""
    for part in parts:
        shown += scanner.feed(part)
        if scanner.stopped is not None:
            return shown, scanner.stopped
    return shown + scanner.finish(), None


def first_stop(stops: list[str], text: str) -> tuple[str, str | None]:
    """The meaning, said slowly: the text grows by one character until it ends in a stop string."""
    for end in range(1, len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop)], stop
    return text, None


@given(
    stops=st.lists(st.text("ab.", min_size=1, max_size=4), min_size=1, max_size=4),
    parts=st.lists(st.text("ab.c", max_size=5), max_size=8),
)
def test_any_cut_gives_what_the_meaning_says(stops: list[str], parts: list[str]) -> None:
    assert run(stops, parts) == first_stop(stops, "".join(parts))


def test_what_may_become_a_stop_is_held_back_and_nothing_more() -> None:
    scanner = StopStrings(StopAutomaton(["END", "\n\n"]))
    assert scanner.feed("the E") == "the "
    assert scanner.feed("N") == ""
    assert scanner.feed("T") == "ENT"
    assert scanner.feed("\n") == ""
    assert scanner.finish() == "\n"


@pytest.mark.parametrize(("include", "shown"), [(False, "one "), (True, "one STOP")])
def test_the_stop_string_is_shown_only_when_asked_for(include: bool, shown: str) -> None:
    assert run(["STOP"], ["one S", "TO", "P two"], include=include) == (shown, "STOP")
