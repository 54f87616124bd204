"""The rules for arrays: items by index, and automata that count the matches of `contains`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from formgate.constrain.algebra.shapes import Array, Conjunction, joined
from formgate.constrain.errors import Unplaced
from formgate.constrain.grammar.cfg import Repeat, Rule, Symbol, Token
from formgate.constrain.rules.grammar_builder import GrammarBuilder

MAX_STEPS = 20_000  # edges of one array's automaton

_COUNTED = ("contains", "maxContains", "minContains", "oneOf", "not", "if", "anyOf", "items")


@dataclass(frozen=True, slots=True)
class _Tally:
    """How many matches of one `contains` are still needed, and how many are still allowed."""

    need: int
    room: int | None


class ArrayRules:
    def __init__(self, grammar: GrammarBuilder, array: Array, canonical: bool) -> None:
        self._grammar = grammar
        self._array = array
        self._canonical = canonical or array.unique
        grammar.guarded |= array.unique
        self._states: dict[tuple[int, tuple[_Tally, ...]], Rule] = {}
        self._steps = 0

    def add(self, rule: Rule) -> None:
        spacing = self._grammar.spacing
        opened: list[Symbol] = [Token('"["'), *spacing.gap]
        start = self._after(0, tuple(_Tally(c.least, c.most) for c in self._array.counts))
        self._grammar.cfg.add(rule, (*opened, start, *spacing.gap, Token('"]"')))

    def _after(self, index: int, tallies: tuple[_Tally, ...]) -> Rule:
        """The rule for the rest of the array after `index` items."""
        array = self._array
        first_rest = array.prefix_length
        idle = all(t.need == 0 and t.room is None for t in tallies)
        at = index
        if index > max(first_rest, array.least) and array.most is None:
            at = max(first_rest, array.least, 1)  # all later indexes share this state
        key = (at, tallies)
        rule = self._states.get(key)
        if rule is not None:
            return rule
        rule = self._states[key] = self._grammar.cfg.rule()
        cfg, spacing = self._grammar.cfg, self._grammar.spacing
        if index >= array.least and all(t.need == 0 for t in tallies):
            cfg.add(rule, ())
        if array.most is not None and index >= array.most:
            return rule
        comma = spacing.comma if index else ()
        if idle and index >= first_rest:
            item = self._grammar.value(array.item(index), canonical=self._canonical)
            least = max(array.least - index, 0)
            most = None if array.most is None else array.most - index
            if index:
                cfg.alternatives(rule).clear()
                cfg.add(rule, (Repeat((*comma, item), least, most),))
            else:
                more = Repeat(
                    (*spacing.comma, item), max(least - 1, 0), None if most is None else most - 1
                )
                cfg.add(rule, (item, more))
            return rule
        for schema, left in self._items(index, tallies):
            item = self._grammar.value(schema, canonical=self._canonical)
            cfg.add(rule, (*comma, item, self._after(index + 1, left)))
        return rule

    def _items(
        self, index: int, tallies: tuple[_Tally, ...]
    ) -> Iterable[tuple[Conjunction, tuple[_Tally, ...]]]:
        """The schemas of the next item, each with the tallies after it."""
        ways: list[tuple[list[Conjunction], list[_Tally]]] = [([self._array.item(index)], [])]
        for count, tally in zip(self._array.counts, tallies, strict=True):
            if index < count.start or (tally.need == 0 and tally.room is None):
                for _, left in ways:
                    left.append(tally)
                continue
            matching = replace(
                tally,
                need=max(tally.need - 1, 0),
                room=None if tally.room is None else tally.room - 1,
            )
            new = []
            for parts, left in ways:
                if tally.room != 0:
                    new.append(([*parts, count.schema], [*left, matching]))
                if count.most is None:  # whether it matches does not matter
                    new.append((parts, [*left, tally]))
                else:
                    new += [([*parts, other], [*left, tally]) for other in negations(count.schema)]
            ways = new
            self._check_steps(len(ways))
        self._steps += len(ways)
        return [(joined(parts), tuple(left)) for parts, left in ways]

    def _check_steps(self, more: int) -> None:
        if self._steps + more > MAX_STEPS:
            raise Unplaced(
                "items are counted in too many ways at once. Lower `minContains` and "
                "`maxContains`, or ask for fewer things that one array must contain",
                code="schema_too_complex",
                keywords=_COUNTED,
            )


def negations(schema: Conjunction) -> list[Conjunction]:
    """The alternatives of a conjunction's negation: one of its literals fails."""
    return [((node, not holds),) for node, holds in schema]
