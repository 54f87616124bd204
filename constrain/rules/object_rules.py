"""The rules for objects: an automaton over the named members in the schema's order, whose state is
the remaining presence formula; then the members that the schema does not name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from formgate.constrain.algebra.presence import Formula, Has, all_of, decide
from formgate.constrain.algebra.scalar_terms import quoted, string_token
from formgate.constrain.algebra.scalars import Strings, matches, num_texts
from formgate.constrain.algebra.shapes import Conjunction, Kind, Members, Object, Some, joined
from formgate.constrain.errors import Unplaced
from formgate.constrain.grammar.cfg import Repeat, Rule, Symbol, Token
from formgate.constrain.rules.grammar_builder import GrammarBuilder
from formgate.constrain.rules.open_names import names_may_run_out, unnamed

MAX_STATES = 20_000  # of one object
MOST_COUNTED = 1_000  # unnamed members; this many count as enough
_WORK_OF_AN_OBJECT = 40  # in pairs of alternatives
MOST_IN_ANY_ORDER = 4  # names outside of `properties`; more of them are written in one order

_CONDITIONS = (
    *("dependentRequired", "dependencies", "dependentSchemas", "if", "oneOf", "anyOf", "not"),
    *("maxProperties", "minProperties", "properties"),
)
_COUNTED = (
    *("minProperties", "maxProperties", "not", "oneOf", "if"),
    *("additionalProperties", "patternProperties", "propertyNames"),
)


@dataclass(frozen=True, slots=True)
class _Rest:
    """One class of unnamed members: their names, and the schema of their values."""

    names: Strings
    value: Conjunction


class _State(NamedTuple):
    """The state after the first `at` names. `free`: names that may still come in any order. `need`
    and `room`: members still needed and still allowed, or None if unbounded. `first`: no member
    has come, so that the next one has no comma.
    """

    at: int
    free: tuple[str, ...]
    presence: Formula
    need: int
    room: int | None
    first: bool


def add_object(grammar: GrammarBuilder, rule: Rule, shape: Object, canonical: bool) -> None:
    for resolved in _without_named_some(grammar, shape):
        _OneObject(grammar, resolved, canonical).add(rule)


def _without_named_some(grammar: GrammarBuilder, shape: Object) -> Iterator[Object]:
    """Expand each `Some`: a named member satisfies it, or only unnamed members may."""
    grammar.algebra.spend(_WORK_OF_AN_OBJECT)
    for at, some in enumerate(shape.some):
        others = shape.some[:at] + shape.some[at + 1 :]
        for name in shape.known_names():
            if _speaks_of(grammar, some, name):
                yield from _without_named_some(
                    grammar,
                    replace(
                        shape,
                        some=others,
                        members=(*shape.members, Members(((name, some.value),), evaluates=False)),
                        presence=all_of(shape.presence, Has(name)),
                    ),
                )
    yield shape


def _speaks_of(grammar: GrammarBuilder, some: Some, name: str) -> bool:
    return (
        name not in some.but
        and (some.pattern is None or matches(some.pattern, name))
        and not any(matches(pattern, name) for pattern in some.but_matching)
        and _allows(grammar, some.name, name)
    )


def _allows(grammar: GrammarBuilder, names: Conjunction, name: str) -> bool:
    return not names or any(
        isinstance(strings, Strings) and strings.holds(name)
        for strings in grammar.algebra.shapes(names, Kind.STRING)
    )


class _OneObject:
    def __init__(self, grammar: GrammarBuilder, shape: Object, canonical: bool) -> None:
        self._grammar = grammar
        self._shape = shape
        self._canonical = canonical
        self._names_may_run_out = names_may_run_out(grammar.algebra, shape)
        grammar.guarded |= self._names_may_run_out
        self._names = shape.known_names()
        declared = {name for members in shape.members for name, _ in members.named}
        free = tuple(name for name in self._names if name not in declared)
        self._free = free if len(free) <= MOST_IN_ANY_ORDER else ()
        self._ordered = [name for name in self._names if name not in self._free]
        self._values = {
            name: value
            for name in self._names
            if _allows(grammar, shape.names, name)
            and not grammar.algebra.is_empty(value := shape.member(name))
        }
        self._states: dict[_State, Rule] = {}
        self._texts: dict[tuple[str, bool], tuple[Symbol, ...]] = {}
        # For states without remaining presence or counts.
        self._tails: list[tuple[Symbol, ...]] = []  # by number of names left
        self._heads: dict[int, Rule] = {}
        self._rests: dict[tuple[frozenset[Some], int, int | None, bool], Rule] = {}
        self._steps = 0  # edges between `_rests`
        self._classes = list(self._rest_classes())
        grammar.has_open_names |= bool(self._classes)

    def add(self, rule: Rule) -> None:
        shape = self._shape
        presence = shape.without(name for name in self._names if name not in self._values)
        if presence is False:
            return
        room = shape.most
        if room is not None and not self._classes and room >= len(self._values):
            room = None
        start = self._members(_State(0, self._free, presence, shape.least, room, True))
        gap = self._grammar.spacing.gap
        self._grammar.cfg.add(rule, (Token('"{"'), *gap, *start, *gap, Token('"}"')))

    def _members(self, state: _State) -> tuple[Symbol, ...]:
        """The symbols for the rest of the object. A name that is required or impossible in `state`
        needs no rule of its own.
        """
        symbols: list[Symbol] = []
        while state.at < len(self._ordered):
            if self._is_plain(state):
                return (*symbols, *self._plain(state.at, first=state.first))
            name = self._ordered[state.at]
            there = self._decided(state, name, present=True)
            absent = self._decided(state, name, present=False)
            if there is not None and absent is not None:
                return (*symbols, self._choice(state, there, absent))
            if there is None:
                if absent is None:
                    return (*symbols, self._grammar.cfg.rule())  # an empty rule: unproductive
                state = absent
                continue
            symbols += self._member(name, first=state.first)
            state = there
        if state.free:
            return (*symbols, self._in_any_order(state))
        if state.presence is not True:
            return (*symbols, self._grammar.cfg.rule())
        return (*symbols, *self._others(state))

    @staticmethod
    def _is_plain(state: _State) -> bool:
        """True if all remaining members are optional and independent of each other."""
        return state.presence is True and not state.need and state.room is None and not state.free

    def _plain(self, at: int, *, first: bool) -> tuple[Symbol, ...]:
        """The symbols for the members from `at`. The first member written has no comma, so one rule
        has an alternative for each member that may be the first.
        """
        names, tails, cfg = self._ordered, self._tails, self._grammar.cfg
        end = len(names)
        if not tails:
            tails.append(self._others(_State(end, (), True, 0, None, False)))
        for name in reversed(names[at : end + 1 - len(tails)]):
            tail = tails[-1]
            if name in self._values:
                rule = cfg.rule()
                cfg.add(rule, (*self._member(name, first=False), *tail))
                cfg.add(rule, tail)
                tail = (rule,)
            tails.append(tail)
        if not first:
            return tails[end - at]
        if at not in self._heads:
            rule = self._heads[at] = cfg.rule()
            for place in range(at, end):
                if (name := names[place]) in self._values:
                    tail = tails[end - place - 1]
                    cfg.add(rule, (*self._member(name, first=True), *tail))
            cfg.add(rule, self._others(_State(end, (), True, 0, None, True)))
        return (self._heads[at],)

    def _in_any_order(self, state: _State) -> Rule:
        rule, new = self._rule_of(state)
        if new:
            cfg = self._grammar.cfg
            none: _State | None = state
            for name in state.free:
                if (there := self._decided(state, name, present=True)) is not None:
                    member = self._member(name, first=state.first)
                    cfg.add(rule, (*member, *self._members(there)))
                none = none and self._decided(none, name, present=False)
            if none is not None:
                cfg.add(rule, self._members(none))
        return rule

    def _choice(self, state: _State, there: _State, absent: _State) -> Rule:
        rule, new = self._rule_of(state)
        if new:
            member = self._member(self._ordered[state.at], first=state.first)
            cfg = self._grammar.cfg
            cfg.add(rule, (*member, *self._members(there)))
            cfg.add(rule, self._members(absent))
        return rule

    def _rule_of(self, state: _State) -> tuple[Rule, bool]:
        """The rule of a state, and whether it is new, that is, still empty."""
        rule = self._states.get(state)
        if rule is not None:
            return rule, False
        if len(self._states) > MAX_STATES:
            raise Unplaced(
                "it makes too many conditions on which members occur together. Make some of "
                "the members `required`, or put groups of members into objects of their own",
                code="schema_too_complex",
                keywords=_CONDITIONS,
            )
        rule = self._states[state] = self._grammar.cfg.rule()
        return rule, True

    def _decided(self, state: _State, name: str, *, present: bool) -> _State | None:
        """The state after a name is decided; None if it is unreachable."""
        if present and (name not in self._values or state.room == 0):
            return None
        presence = state.presence
        if presence is not True:
            presence = decide(presence, name, present)
            if presence is False:
                return None
        at, free = state.at, state.free
        if name in free:
            free = tuple(other for other in free if other != name)
        else:
            at += 1
        if not present:
            return _State(at, free, presence, state.need, state.room, state.first)
        room = None if state.room is None else state.room - 1
        return _State(at, free, presence, max(state.need - 1, 0), room, False)

    def _member(self, name: str, *, first: bool) -> tuple[Symbol, ...]:
        text = self._texts.get((name, first))
        if text is None:
            value = self._grammar.value(self._values[name], canonical=self._canonical)
            text = (*self._grammar.spacing.key(quoted(name), first=first), value)
            self._texts[name, first] = text
        return text

    # The members that the schema does not name.

    def _others(self, state: _State) -> tuple[Symbol, ...]:
        room = state.room
        if not self._classes:
            some = self._shape.some
            return () if state.need == 0 and not some else (self._grammar.cfg.rule(),)
        if state.need and self._names_may_run_out and state.need > self._num_unnamed:
            return (self._grammar.cfg.rule(),)
        return (self._rest(frozenset(self._shape.some), state.need, room, state.first),)

    @cached_property
    def _num_unnamed(self) -> int:
        """Number of unnamed members that an object can have, counted up to `least`."""
        most = min(self._shape.least, MOST_COUNTED)
        found = 0
        for rest in self._classes:
            if rest.names.values is not None:
                found += len(rest.names.values)
            elif (token := string_token(rest.names, canonical=True)) is not None:
                found += num_texts(token.text, most)
        return found if found < MOST_COUNTED else self._shape.least

    def _rest(self, some: frozenset[Some], need: int, room: int | None, first: bool) -> Rule:
        key = (some, need, room, first)
        rule = self._rests.get(key)
        if rule is not None:
            return rule
        self._steps += len(self._classes) * (1 + 3 * len(some))
        if self._steps > MAX_STATES:
            raise Unplaced(
                "too many members that the schema does not name must be counted. Name them in "
                "`properties`, or lower the count",
                code="schema_too_complex",
                keywords=_COUNTED,
            )
        rule = self._rests[key] = self._grammar.cfg.rule()
        cfg = self._grammar.cfg
        if need == 0 and not some:
            if room is None and not first:
                members = cfg.rule()
                for rest in self._classes:
                    self._add_rest(members, rest, first=False, then=())
                cfg.add(rule, (Repeat((members,), 0, None),))
                return rule
            cfg.add(rule, ())
        if room == 0:
            return rule
        left = None if room is None else room - 1
        then = (self._rest(some, max(need - 1, 0), left, False),)
        for rest in self._classes:
            self._add_rest(rule, rest, first=first, then=then)
            for one in some:
                met = rest.names.meet(
                    Strings(
                        patterns=frozenset(() if one.pattern is None else (one.pattern,)),
                        not_patterns=one.but_matching,
                        without=one.but,
                    )
                )
                if met is None:
                    continue
                fewer = (self._rest(some - {one}, max(need - 1, 0), left, False),)
                for names in self._names_under(met, one.name):
                    both = _Rest(names, joined((rest.value, one.value)))
                    self._add_rest(rule, both, first=first, then=fewer)
        return rule

    def _add_rest(self, rule: Rule, rest: _Rest, *, first: bool, then: tuple[Symbol, ...]) -> None:
        spacing = self._grammar.spacing
        before: tuple[Symbol, ...] = ()
        if spacing.whitespace is None:
            # One terminal that begins with the comma, as for named members: a lexer inside of
            # `, "name": ` does not return to a lexeme of the comma alone.
            name = string_token(
                rest.names, prefix="" if first else ", ", suffix=": ", canonical=True
            )
            after: tuple[Symbol, ...] = ()
        else:
            name = string_token(rest.names, canonical=True)
            before = () if first else spacing.comma
            after = spacing.colon
        if name is None:
            return
        value = self._grammar.value(rest.value, canonical=self._canonical)
        self._grammar.cfg.add(rule, (*before, name, *after, value, *then))

    def _names_under(self, names: Strings, schema: Conjunction) -> Iterator[Strings]:
        if not schema:
            yield names
            return
        for strings in self._grammar.algebra.shapes(schema, Kind.STRING):
            assert isinstance(strings, Strings)
            if (met := names.meet(strings)) is not None:
                yield met

    def _rest_classes(self) -> Iterator[_Rest]:
        """The classes of unnamed members, which differ in the patterns that the names match."""
        shape = self._shape
        patterns = shape.patterns()
        known = frozenset(self._names)
        for chosen, value in unnamed(self._grammar.algebra, shape):
            names = Strings(
                patterns=frozenset(chosen),
                not_patterns=frozenset(patterns).difference(chosen),
                without=known,
            )
            for allowed in self._names_under(names, shape.names):
                yield _Rest(allowed, value)
