"""Translates GBNF to llguidance's Lark with exactly the same texts. GBNF has no lexer, and Lark's
takes the longest lexeme. So parts become lexemes only if the next character always shows their end;
otherwise every character is a lexeme.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from formgate.constrain.errors import ConstraintError
from formgate.constrain.notations.gbnf import (
    Alt,
    Chars,
    Expr,
    Literal,
    Ref,
    Rules,
    Seq,
    Times,
    read_gbnf,
)

_ANY = "(?s:.)"
Set = frozenset[int]  # of characters, as numbers of intervals that no class of the grammar splits
_NONE: Set = frozenset()


def gbnf_to_lark(source: str) -> str:
    """Raises ConstraintError."""
    rules = read_gbnf(source)
    try:
        used = _reachable(rules, "root")
        recursive = {name for name in used if name in _reachable(rules, name, itself=False)}
        # A rule that refers to a recursive rule cannot be a lexeme either.
        nested = {name for name in used if not recursive.isdisjoint(_reachable(rules, name))}
        rules = {name: rules[name] for name in used}
        _check_productive(rules)
        lexemes = "root" not in nested or _Decided(rules, nested).holds()
        return _GbnfWriter(rules, nested, by_character=not lexemes).written()
    except RecursionError:
        raise ConstraintError("The grammar is nested too deeply.", code="schema_too_complex") from (
            None
        )


def _reachable(rules: Rules, start: str, *, itself: bool = True) -> dict[str, None]:
    """The rules that `start` refers to, in order of visit. `start` is among them with `itself`, or
    if it is recursive.
    """
    found: dict[str, None] = {start: None} if itself else {}
    waiting = [rules[start]]
    while waiting:
        expr = waiting.pop()
        match expr:
            case Ref(name):
                if name not in found:
                    found[name] = None
                    waiting.append(rules[name])
            case Seq(parts) | Alt(parts):
                waiting.extend(reversed(parts))
            case Times(part):
                waiting.append(part)
    return found


def _check_productive(rules: Rules) -> None:
    ending: set[str] = set()
    while True:
        found = {name for name, expr in rules.items() if _ends(expr, ending)}
        if found == ending:
            break
        ending = found
    for name in rules:
        if name not in ending:
            raise ConstraintError(
                f"The grammar is not valid: the rule {name!r:.60} never comes to an end.",
                code="invalid_grammar",
            )


def _ends(expr: Expr, ending: set[str]) -> bool:
    match expr:
        case Ref(name):
            return name in ending
        case Seq(parts):
            return all(_ends(part, ending) for part in parts)
        case Alt(parts):
            return any(_ends(part, ending) for part in parts)
        case Times(part, least):
            return least == 0 or _ends(part, ending)
    return True


class _GbnfWriter:
    def __init__(self, rules: Rules, nested: Iterable[str], *, by_character: bool) -> None:
        self._rules = rules
        self._nested = set(rules) if by_character else set(nested)
        self._by_character = by_character
        self._numbers = {name: number for number, name in enumerate(rules)}
        self._terminals: dict[str, str] = {}

    def written(self) -> str:
        lines = [f"start: {self._name('root')}"]
        for name, expr in self._rules.items():
            lexeme = name not in self._nested
            lines.append(f"{self._name(name)}: {self._expr(expr, lexeme)}")
        lines += [f"{name}: {text}" for text, name in self._terminals.items()]
        return "\n".join([*lines, ""])

    def _name(self, name: str) -> str:
        return f"{'r' if name in self._nested else 'R'}_{self._numbers[name]}"

    def _expr(self, expr: Expr, lexeme: bool) -> str:
        """The expression in Lark; with `lexeme`, as part of a terminal."""
        if not lexeme and not self._by_character and self._is_regular(expr):
            if isinstance(expr, Ref):
                return self._name(expr.name)
            return self._terminal(self._expr(expr, True))
        match expr:
            case Literal(""):
                return '""'
            case Literal(text):
                if lexeme:
                    return json.dumps(text, ensure_ascii=False)
                return "(" + " ".join(self._terminal(json.dumps(char)) for char in text) + ")"
            case Chars(ranges):
                term = f"/{_class(ranges)}/"
                return term if lexeme else self._terminal(term)
            case Ref(name):
                return self._name(name)
            case Seq(parts):
                return "(" + (" ".join(self._expr(p, lexeme) for p in parts) or '""') + ")"
            case Alt(parts):
                return "(" + " | ".join(self._expr(p, lexeme) for p in parts) + ")"
            case Times(_, _, 0):
                return '""'
            case Times(part, least, most):
                count = f"{{{least},{'' if most is None else most}}}"
                return f"({self._expr(part, lexeme)}){count}"

    def _is_regular(self, expr: Expr) -> bool:
        match expr:
            case Ref(name):
                return name not in self._nested
            case Seq(parts) | Alt(parts):
                return all(self._is_regular(part) for part in parts)
            case Times(part):
                return self._is_regular(part)
        return True

    def _terminal(self, text: str) -> str:
        return self._terminals.setdefault(text, f"T_{len(self._terminals)}")


def _class(ranges: tuple[tuple[int, int], ...]) -> str:
    if ranges == ((0, 0x10FFFF),):
        return _ANY
    return "[" + "".join(f"\\u{{{a:x}}}-\\u{{{b:x}}}" for a, b in ranges) + "]"


@dataclass(frozen=True, slots=True)
class _Facts:
    """A part of the grammar: whether it may be empty, its first characters, all its characters, and
    the characters with which a complete text of it may continue as another text of it.
    """

    empty: bool
    first: Set
    all: Set
    more: Set


class _Decided:
    """Tests whether the nested rules are LL(1) and every lexeme's end is decided by the next
    character.
    """

    def __init__(self, rules: Rules, nested: Iterable[str]) -> None:
        self._rules = rules
        self._nested = set(nested)
        starts = {0, 0x110000}
        waiting = list(rules.values())
        while waiting:
            match waiting.pop():
                case Chars(ranges):
                    starts.update(bound for a, b in ranges for bound in (a, b + 1))
                case Literal(text):
                    starts.update(bound for char in text for bound in (ord(char), ord(char) + 1))
                case Seq(parts) | Alt(parts):
                    waiting.extend(parts)
                case Times(part):
                    waiting.append(part)
        self._interval = {start: number for number, start in enumerate(sorted(starts))}
        self._of_rule: dict[str, _Facts] = {}
        self._follow: dict[str, Set] = dict.fromkeys(rules, _NONE)
        self._conflict = False

    def holds(self) -> bool:
        self._settle()
        while True:
            before = dict(self._follow)
            self._conflict = False
            for name in self._nested:
                self._check(self._rules[name], self._follow[name])
            if self._conflict:
                return False
            if before == self._follow:
                return True

    def _settle(self) -> None:
        self._of_rule = dict.fromkeys(self._rules, _Facts(False, _NONE, _NONE, _NONE))
        changed = True
        while changed:
            changed = False
            for name, expr in self._rules.items():
                found = self._facts(expr)
                changed |= found != self._of_rule[name]
                self._of_rule[name] = found

    def _facts(self, expr: Expr) -> _Facts:
        match expr:
            case Chars(ranges):
                chars = frozenset(
                    number
                    for a, b in ranges
                    for number in range(self._interval[a], self._interval[b + 1])
                )
                return _Facts(False, chars, chars, _NONE)
            case Literal(text):
                each = [frozenset((self._interval[ord(char)],)) for char in text]
                return _Facts(not text, each[0] if each else _NONE, _NONE.union(*each), _NONE)
            case Ref(name):
                return self._of_rule[name]
            case Alt(parts):
                each_facts = [self._facts(part) for part in parts]
                apart = _apart([facts.first for facts in each_facts])
                found = _Facts(
                    any(facts.empty for facts in each_facts),
                    _NONE.union(*(facts.first for facts in each_facts)),
                    _NONE.union(*(facts.all for facts in each_facts)),
                    _NONE.union(*(facts.more for facts in each_facts)),
                )
                more = found.more | (found.first if found.empty else _NONE)
                return _Facts(found.empty, found.first, found.all, more if apart else found.all)
            case Seq(parts):
                found = _Facts(True, _NONE, _NONE, _NONE)
                for part in parts:
                    found = _joined(found, self._facts(part))
                return found
            case Times(part, least, most):
                facts = self._facts(part)
                if most == 0:
                    return _Facts(True, _NONE, _NONE, _NONE)
                clear = most == 1 or not (facts.empty or facts.more & facts.first)
                again = _NONE if least == most else facts.first
                more = facts.more | again if clear else facts.all
                return _Facts(facts.empty or least == 0, facts.first, facts.all, more)

    def _check(self, expr: Expr, follow: Set) -> None:
        if isinstance(expr, Ref) and expr.name in self._nested:
            self._follow[expr.name] |= follow
            return
        facts = self._facts(expr)
        if not self._is_nested(expr):
            more = facts.more | (facts.first if facts.empty else _NONE)
            self._conflict |= bool(more & follow)
            return
        match expr:
            case Seq(parts):
                for part in reversed(parts):
                    self._check(part, follow)
                    found = self._facts(part)
                    follow = found.first | (follow if found.empty else _NONE)
            case Alt(parts):
                each = [self._facts(part) for part in parts]
                firsts = [f.first | (follow if f.empty else _NONE) for f in each]
                self._conflict |= not _apart(firsts) or sum(f.empty for f in each) > 1
                for part in parts:
                    self._check(part, follow)
            case Times(part, least, most):
                found = self._facts(part)
                self._conflict |= found.empty
                if least != most:
                    self._conflict |= bool(found.first & follow)
                self._check(part, follow | (found.first if most != 1 else _NONE))

    def _is_nested(self, expr: Expr) -> bool:
        match expr:
            case Ref(name):
                return name in self._nested
            case Seq(parts) | Alt(parts):
                return any(self._is_nested(part) for part in parts)
            case Times(part):
                return self._is_nested(part)
        return False


def _joined(one: _Facts, other: _Facts) -> _Facts:
    everything = one.all | other.all
    if one.more & other.first:
        more = everything
    else:
        more = other.more
        if other.empty:
            more |= one.more | other.first
    return _Facts(
        one.empty and other.empty,
        one.first | (other.first if one.empty else _NONE),
        everything,
        more,
    )


def _apart(sets: Iterable[Set]) -> bool:
    seen: set[int] = set()
    for each in sets:
        if not seen.isdisjoint(each):
            return False
        seen |= each
    return True
