"""Regexes of numbers within bounds, with exact fractions as the oracle."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from fractions import Fraction
from random import Random

import pytest

from formgate.constrain.regex.number_regex import Bounds, integer_range, integer_regex, number_regex

BATCHES = range(4)


def bounds_of(r: Random, *, whole: bool) -> Bounds:
    least, most = (
        None
        if r.random() < 0.2
        else Decimal(r.randint(-1200, 1200)).scaleb(0 if whole else -r.randint(0, 3))
        for _ in range(2)
    )
    if least is not None and most is not None and least > most:
        least, most = most, least
    return Bounds(least, r.random() < 0.4, most, r.random() < 0.4)


def near(r: Random, bounds: Bounds) -> list[str]:
    """Numbers in plain notation, most of them about the edges."""
    found = ["0", "1", "-1", "10", "-10", "99", "100", "0.5", "-0.5", "1e2", "123456.75"]
    edges = [edge for edge in (bounds.least, bounds.most) if edge is not None]
    for edge in edges:
        for step in ("0", "1", "0.1", "0.01", "0.0001", "9", "0.5", "0.25"):
            found += [format(edge + Decimal(step), "f"), format(edge - Decimal(step), "f")]
    if len(edges) == 2:
        found += [format(edges[0] + (edges[1] - edges[0]) * r.randint(0, 64) / 64, "f")] * 4
    found += [str(r.randint(-2000, 2000)), format(Decimal(r.randint(-99999, 99999)) / 100, "f")]
    return ["0" if re.fullmatch(r"-0(\.0+)?", text) else text for text in found]


def within(bounds: Bounds, text: str) -> bool:
    value = Fraction(text)
    low = bounds.least is None or (
        value > Fraction(bounds.least) or (not bounds.above and value == Fraction(bounds.least))
    )
    high = bounds.most is None or (
        value < Fraction(bounds.most) or (not bounds.below and value == Fraction(bounds.most))
    )
    return low and high


@pytest.mark.parametrize("batch", BATCHES)
def test_a_number_is_matched_if_and_only_if_it_is_within_bounds(batch: int) -> None:
    matched = refused = 0
    for seed in range(batch * 40, batch * 40 + 40):
        r = Random(seed)
        bounds = bounds_of(r, whole=False)
        regex = number_regex(bounds)
        if regex is None:
            assert bounds.empty
            continue
        pattern = re.compile(regex)
        for text in near(r, bounds):
            assert bool(pattern.fullmatch(text)) == within(bounds, text) or (
                "e" in text and not pattern.fullmatch(text)  # exponents are for what is not near
            ), (bounds, text)
            matched += bool(pattern.fullmatch(text))
            refused += not pattern.fullmatch(text)
    assert min(matched, refused) > 100


@pytest.mark.parametrize("batch", BATCHES)
def test_an_integer_is_matched_if_and_only_if_it_is_within_bounds(batch: int) -> None:
    for seed in range(batch * 40, batch * 40 + 40):
        r = Random(seed)
        bounds = bounds_of(r, whole=r.random() < 0.5)
        regex = integer_regex(bounds)
        least, most = integer_range(bounds)
        if regex is None:
            assert least is not None
            assert most is not None
            assert least > most
            continue
        pattern = re.compile(regex)
        for value in {*range(-130, 130), *(r.randint(-3000, 3000) for _ in range(200))}:
            assert bool(pattern.fullmatch(str(value))) == within(bounds, str(value)), (
                bounds,
                value,
            )
        for text in ("", "-", "00", "01", "+1", "1.0", "1e1"):
            assert not pattern.fullmatch(text), (bounds, text)


def test_what_is_matched_is_a_number_that_a_float_does_not_round_out_of_bounds() -> None:
    texts = ["1" + "0" * n for n in range(0, 110, 9)]
    texts += [f"{m}e{e}" for m in ("1", "9.5", "-3.25") for e in (-99, -20, -1, 0, 5, 99)]
    texts += ["1." + "0" * n + "1" for n in range(0, 45, 4)]
    texts += ["0." + "9" * n for n in range(1, 45, 4)]
    for bounds in (
        Bounds(),
        Bounds(least=Decimal(1), above=True),
        Bounds(most=Decimal(1), below=True),
        Bounds(least=Decimal("0.5"), most=Decimal("1e5")),
        Bounds(least=Decimal(0), above=True),
    ):
        regex = number_regex(bounds)
        assert regex is not None
        matched = [text for text in texts if re.fullmatch(regex, text)]
        assert matched
        for text in matched:
            assert bounds.holds(Decimal(repr(float(json.loads(text))))), (bounds, text)
