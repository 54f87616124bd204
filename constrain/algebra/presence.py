"""Boolean formulas over the names of an object's members. A formula is decided name by name, in the
order in which members are written. The remaining formula is a state of the object's automaton, as
in an ordered binary decision diagram (Bryant, 1986).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Has:
    name: str


@dataclass(frozen=True, slots=True)
class Not:
    part: Formula


@dataclass(frozen=True, slots=True)
class All:
    parts: frozenset[Formula]


@dataclass(frozen=True, slots=True)
class Any:
    parts: frozenset[Formula]


Formula = bool | Has | Not | All | Any


def all_of(*parts: Formula) -> Formula:
    flat: set[Formula] = set()
    for part in parts:
        if part is False:
            return False
        if isinstance(part, All):
            flat |= part.parts
        elif part is not True:
            flat.add(part)
    if any(Not(part) in flat for part in flat if isinstance(part, Has)):
        return False
    if len(flat) < 2:
        return next(iter(flat), True)
    return All(frozenset(flat))


def any_of(*parts: Formula) -> Formula:
    flat: set[Formula] = set()
    for part in parts:
        if part is True:
            return True
        if isinstance(part, Any):
            flat |= part.parts
        elif part is not False:
            flat.add(part)
    if any(Not(part) in flat for part in flat if isinstance(part, Has)):
        return True
    if len(flat) < 2:
        return next(iter(flat), False)
    return Any(frozenset(flat))


def negation(part: Formula) -> Formula:
    """The negation, with `Not` only on names."""
    match part:
        case bool():
            return not part
        case Not(inner):
            return inner
        case All(parts):
            return any_of(*map(negation, parts))
        case Any(parts):
            return all_of(*map(negation, parts))
    return Not(part)


def one_of(parts: list[Formula]) -> Formula:
    """True if exactly one part is."""
    return any_of(
        *(
            all_of(part, *(negation(other) for at, other in enumerate(parts) if at != chosen))
            for chosen, part in enumerate(parts)
        )
    )


@lru_cache(maxsize=1 << 14)
def decide(part: Formula, name: str, present: bool) -> Formula:
    """The remaining formula, given that a member is present or absent."""
    match part:
        case bool():
            return part
        case Has(own):
            return present if own == name else part
        case Not(inner):
            return negation(decide(inner, name, present))
        case All(parts):
            return all_of(*(decide(inner, name, present) for inner in parts))
        case Any(parts):
            return any_of(*(decide(inner, name, present) for inner in parts))


def names_in(part: Formula) -> frozenset[str]:
    match part:
        case Has(name):
            return frozenset((name,))
        case Not(inner):
            return names_in(inner)
        case All(parts) | Any(parts):
            return frozenset().union(*map(names_in, parts))
    return frozenset()


def can_hold(part: Formula) -> bool:
    """True if some set of members satisfies the formula. Shannon expansion: exponential in the
    names.
    """
    if isinstance(part, bool):
        return part
    if isinstance(part, Has | Not):
        return True
    name = min(names_in(part))
    return can_hold(decide(part, name, True)) or can_hold(decide(part, name, False))


def conjuncts(part: Formula) -> frozenset[Formula]:
    """The parts of a conjunction."""
    if part is True:
        return frozenset()
    return part.parts if isinstance(part, All) else frozenset((part,))


def required_names(part: Formula) -> frozenset[str]:
    """The names that are conjuncts of the formula."""
    return frozenset(one.name for one in conjuncts(part) if isinstance(one, Has))
