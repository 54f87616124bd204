"""Formulas over which members are there, against their truth tables."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest

from formgate.constrain.algebra.presence import (
    All,
    Any,
    Formula,
    Has,
    Not,
    all_of,
    any_of,
    can_hold,
    conjuncts,
    decide,
    names_in,
    negation,
    one_of,
    required_names,
)

NAMES = "abcd"
TABLE = [
    frozenset(n for n, on in zip(NAMES, row, strict=True) if on)
    for row in product((0, 1), repeat=4)
]


def holds(part: Formula, there: frozenset[str]) -> bool:
    match part:
        case bool():
            return part
        case Has(name):
            return name in there
        case Not(inner):
            return not holds(inner, there)
        case All(parts):
            return all(holds(one, there) for one in parts)
        case Any(parts):
            return any(holds(one, there) for one in parts)


def formula(r: Random, depth: int = 3) -> Formula:
    if depth == 0 or r.random() < 0.2:
        return r.choice([True, False, *map(Has, NAMES * 2)])
    parts = [formula(r, depth - 1) for _ in range(r.randint(1, 3))]
    return r.choice([all_of(*parts), any_of(*parts), negation(parts[0]), one_of(parts)])


@pytest.mark.parametrize("seed", range(200))
def test_what_is_left_of_a_formula_says_the_same(seed: int) -> None:
    r = Random(seed)
    part = formula(r)
    assert names_in(part) <= set(NAMES)
    assert can_hold(part) == any(holds(part, there) for there in TABLE)
    for there in TABLE:
        assert holds(negation(part), there) is not holds(part, there)
        assert all(holds(one, there) for one in conjuncts(part)) == holds(part, there)
        if holds(part, there):
            assert required_names(part) <= there
        left = part
        for name in r.sample(NAMES, len(NAMES)):
            left = decide(left, name, name in there)
            assert name not in names_in(left)
        assert left is holds(part, there)


@pytest.mark.parametrize("seed", range(50))
def test_joins_are_those_of_logic(seed: int) -> None:
    r = Random(seed)
    parts = [formula(r, 2) for _ in range(r.randint(0, 4))]
    for there in TABLE:
        values = [holds(part, there) for part in parts]
        assert holds(all_of(*parts), there) == all(values)
        assert holds(any_of(*parts), there) == any(values)
        assert holds(one_of(parts), there) == (sum(values) == 1)


def test_equal_formulas_are_one_state() -> None:
    """The states of an object's automaton would multiply without end."""
    a, b = Has("a"), Has("b")
    assert all_of(a, all_of(b, a)) == all_of(b, a)
    assert any_of(a, Not(a)) is True
    assert all_of(a, Not(a)) is False
    assert negation(negation(any_of(a, Not(b)))) == any_of(a, Not(b))
