"""The other texts of a JSON value that differ in the order of members only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, permutations, product

from formgate.constrain.rules.guard_plan import GuardPlan

MOST = 24  # texts; an object of four names has as many orders
MOST_BYTES = 200  # of all texts


@dataclass(frozen=True)
class _Object:
    members: list[tuple[str, _Value]]


class _Number(str):
    """A number, as it is written."""


_Value = _Object | _Number | str | bool | None | list["_Value"]


def reorderings(text: bytes, plan: GuardPlan, places: tuple[int, ...]) -> Iterator[bytes]:
    """The texts other than `text`, with the separators of `json.dumps`, limited by `MOST` and
    `MOST_BYTES`. `places`: those of the value in `plan`.

    Only objects whose names may run out are reordered: the others have the schema's order, or a
    further member is always possible. Beyond the limits, a reordered copy of an item may be begun
    that cannot be ended.
    """
    try:
        value = json.loads(text, object_pairs_hook=_Object, parse_int=_Number, parse_float=_Number)
    except (ValueError, RecursionError):
        return
    most = min(MOST, MOST_BYTES // len(text))
    for other in islice(_orders(value, plan, places), most):
        written = other.encode()
        if written != text:
            yield written


def _orders(value: _Value, plan: GuardPlan, places: tuple[int, ...]) -> Iterator[str]:
    if isinstance(value, _Object):
        members = [
            [
                f"{json.dumps(name, ensure_ascii=False)}: {one}"
                for one in islice(_orders(member, plan, plan.member(places, name)), MOST)
            ]
            for name, member in value.members
        ]
        orders = permutations(members) if plan.names_differ(places) else iter((tuple(members),))
        for order in orders:
            for chosen in product(*order):
                yield f"{{{', '.join(chosen)}}}"
    elif isinstance(value, list):
        items = [
            list(islice(_orders(item, plan, plan.item(places, index)), MOST))
            for index, item in enumerate(value)
        ]
        for chosen in product(*items):
            yield f"[{', '.join(chosen)}]"
    else:
        is_number = isinstance(value, _Number)
        yield str(value) if is_number else json.dumps(value, ensure_ascii=False)
