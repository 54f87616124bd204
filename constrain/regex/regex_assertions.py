"""Eliminates anchors, word boundaries and look-aheads from a regex tree. An assertion holds at a
position, between the character before it (`Before`) and the texts that may follow. So a tree is
rewritten together with the rest of the pattern: `$` requires an empty rest, a look-ahead is an
intersection with the rest, `^` requires that no character precedes.

In a repetition, an assertion depends on later rounds. `regex_automaton` rewrites these, and trees
that take more than `_MOST_STEPS` here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from formgate.constrain.regex.regex_automaton import without_assertions
from formgate.constrain.regex.regex_tree import (
    ANY_TEXT,
    EMPTY,
    NOTHING,
    OTHER_CHAR,
    SOME_TEXT,
    WORD_CHAR,
    Alt,
    Before,
    Boundary,
    Chars,
    Edge,
    Look,
    Regex,
    Repeat,
    Seq,
    alt,
    asserts,
    both,
    chars_of_both,
    holds_any,
    negation,
    nullable,
    seq,
)

_MOST_STEPS = 4_000
_DEEPEST = 60
_MOST_ROUNDS = 16  # of a counted repetition that asserts something

_WORD_NEXT = seq(WORD_CHAR, ANY_TEXT)
_NO_WORD_NEXT = alt(EMPTY, seq(OTHER_CHAR, ANY_TEXT))


def without_look(tree: Regex, *, search: bool) -> Regex:
    """A tree without assertions for the texts that `tree` matches anywhere (`search`) or as a
    whole. Raises RegexError.
    """
    if not asserts(tree):
        return seq(ANY_TEXT, tree, ANY_TEXT) if search else tree
    rewriter = _Rewriter(tree)
    try:
        return rewriter.searched(tree) if search else rewriter.texts(tree, _END, Before.NONE)
    except _NeedsAutomaton:
        return without_assertions(tree, search=search)


class _NeedsAutomaton(Exception):
    pass


class _Rest:
    """The texts that may follow a position. `same`: they do not depend on the character before."""

    def __init__(self, texts: Callable[[Before], Regex], *, same: bool) -> None:
        self.same = same
        self._texts = texts
        self._known: dict[Before, Regex] = {}

    def behind(self, before: Before) -> Regex:
        if before not in self._known:
            self._known[before] = self._texts(before)
        return self._known[before]


_ENDLESS = _Rest(lambda _: ANY_TEXT, same=True)
_END = _Rest(lambda _: EMPTY, same=True)


class _Rewriter:
    def __init__(self, tree: Regex) -> None:
        self._has_boundary = holds_any(tree, _is_boundary)
        self._steps = self._depth = 0

    def searched(self, tree: Regex) -> Regex:
        if isinstance(tree, Alt):
            return alt(*map(self.searched, tree.options))
        first = self.texts(tree, _ENDLESS, Before.NONE)
        if not _looks_back(tree):
            return seq(ANY_TEXT, first)
        other = self.texts(tree, _ENDLESS, Before.OTHER)
        word = self.texts(tree, _ENDLESS, Before.WORD) if self._has_boundary else other
        if word == other:
            later = seq(ANY_TEXT if first == other else SOME_TEXT, word)
            return later if first == other else alt(first, later)
        return alt(first, seq(ANY_TEXT, OTHER_CHAR, other), seq(ANY_TEXT, WORD_CHAR, word))

    def texts(self, tree: Regex, rest: _Rest, before: Before) -> Regex:
        """The texts that are a match of `tree` at a position, followed by a text of `rest`."""
        self._steps += 1
        self._depth += 1
        if self._steps > _MOST_STEPS or self._depth > _DEEPEST:
            raise _NeedsAutomaton
        found = self._texts(tree, rest, before)
        self._depth -= 1
        return found

    def _texts(self, tree: Regex, rest: _Rest, before: Before) -> Regex:
        if not asserts(tree):
            return self._taken(tree, rest, before)
        match tree:
            case Edge(start=True):
                return rest.behind(before) if before is Before.NONE else NOTHING
            case Edge():
                return EMPTY if nullable(rest.behind(before)) else NOTHING
            case Boundary(negated):
                word_next = (before is not Before.WORD) != negated
                return both(_WORD_NEXT if word_next else _NO_WORD_NEXT, rest.behind(before))
            case Look(part, negated):
                seen = self.texts(part, _ENDLESS, before)
                return both(negation(seen) if negated else seen, rest.behind(before))
            case Seq(parts):
                return self._row(_with_plain_runs(parts), rest, before)
            case Alt(options):
                return alt(*(self.texts(option, rest, before) for option in options))
            case Repeat(part, least, most) if most is not None and most <= _MOST_ROUNDS:
                rounds: Regex = EMPTY
                for at in range(most, 0, -1):
                    rounds = Seq((part, rounds))
                    if at > least:
                        rounds = Alt((rounds, EMPTY))
                return self.texts(rounds, rest, before)
        raise _NeedsAutomaton

    def _row(self, parts: Sequence[Regex], rest: _Rest, before: Before) -> Regex:
        if not parts:
            return rest.behind(before)
        later = parts[1:]
        if later:
            same = rest.same and not any(map(_looks_back, later))
            behind = _Rest(lambda before: self._row(later, rest, before), same=same)
        else:
            behind = rest
        return self.texts(parts[0], behind, before)

    def _taken(self, tree: Regex, rest: _Rest, before: Before) -> Regex:
        """`tree` has no assertion, but `rest` may depend on its last character."""
        if rest.same:
            return seq(tree, rest.behind(before))
        found = [rest.behind(before)] if nullable(tree) else []
        other = rest.behind(Before.OTHER)
        word = rest.behind(Before.WORD) if self._has_boundary else other
        if word == other:
            if found and found[0] == other:
                return seq(tree, other)
            return alt(*found, seq(_not_empty(tree), other)) if other != NOTHING else alt(*found)
        found += [
            seq(_ending(tree, last), behind)
            for last, behind in ((WORD_CHAR, word), (OTHER_CHAR, other))
            if behind != NOTHING
        ]
        return alt(*found)


def _with_plain_runs(parts: Sequence[Regex]) -> list[Regex]:
    """The parts, with adjacent parts without assertions joined."""
    runs: list[Regex] = []
    for part in parts:
        if runs and not asserts(part) and not asserts(runs[-1]):
            runs[-1] = seq(runs[-1], part)
        else:
            runs.append(part)
    return runs


def _not_empty(tree: Regex) -> Regex:
    if not nullable(tree):
        return tree
    if isinstance(tree, Repeat) and not nullable(tree.part):
        return Repeat(tree.part, 1, tree.most) if tree.most != 0 else NOTHING
    return both(tree, SOME_TEXT)


def _ending(tree: Regex, last: Chars) -> Regex:
    """The texts of `tree` whose last character is in `last`."""
    match tree:
        case Chars():
            return chars_of_both(tree, last)
        case Seq((*before, Chars() as end)):
            return seq(*before, chars_of_both(end, last))
        case Alt(options):
            return alt(*(_ending(option, last) for option in options))
    return both(tree, seq(ANY_TEXT, last))


def _looks_back(tree: Regex) -> bool:
    return holds_any(tree, lambda part: part == Edge(start=True) or _is_boundary(part))


def _is_boundary(tree: Regex) -> bool:
    return isinstance(tree, Boundary)
