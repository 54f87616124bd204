"""Eliminates assertions inside of repetitions by a deterministic automaton. A state is a boolean
function of items ("this part of the pattern matches from here"), which describes the rest of the
text. States are binary decision diagrams (Bryant, 1986), so that equal states are identical. State
elimination turns the automaton into a regex. Each step may be exponential, and is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from formgate.constrain.regex.regex_tree import (
    ANY_TEXT,
    EMPTY,
    EVERY,
    NOTHING,
    WORD_CHAR,
    Alt,
    Before,
    Boundary,
    Chars,
    Edge,
    Look,
    Regex,
    RegexError,
    Repeat,
    Seq,
    alt,
    chars_of_both,
    complement,
    factors,
    holds_any,
    merged,
    seq,
)

_MOST_STATES = 100
_MOST_CELLS = 200
_MOST_WORK = 25_000
_MOST_PARTS = 20_000  # of the regex that comes out

# The rest of a pattern: its next part and the rest after that. None is the end.
Item = tuple[Regex, "Item"] | None
# A node of a decision diagram: an item's number, the function if it is false, and if it is true.
Node = int
_FALSE, _TRUE = 0, 1


def without_assertions(tree: Regex, *, search: bool) -> Regex:
    """A tree without assertions for the texts that `tree` matches anywhere (`search`) or as a
    whole. Raises RegexError if the automaton is too large.
    """
    return _as_regex(*_Automaton(tree, search=search).states())


@dataclass(frozen=True, slots=True)
class _Cell:
    """Characters that every class of the pattern treats alike: `chars`, and the classes that hold
    them. As a cell, None is the end of the text.
    """

    chars: Chars
    classes: frozenset[Chars]


class _Automaton:
    def __init__(self, tree: Regex, *, search: bool) -> None:
        self._has_boundary = holds_any(tree, lambda part: isinstance(part, Boundary))
        self._looks_back = self._has_boundary or holds_any(tree, lambda p: p == Edge(start=True))
        self._search = search
        self._tree = tree
        self._cells = _cells(tree, self._has_boundary)
        self._work = 0
        # Decision diagrams; the first two nodes are the constants.
        self._nodes: list[tuple[int, Node, Node]] = [(-1, 0, 0), (-1, 1, 1)]
        self._node_of: dict[tuple[int, Node, Node], Node] = {}
        self._chosen: dict[tuple[Node, Node, Node], Node] = {}
        self._items: list[tuple[Item, bool]] = []
        self._item_of: dict[tuple[Item, bool], int] = {}

    def states(self) -> tuple[list[dict[int, list[Chars]]], set[int]]:
        """The edges of each state, and the accepting states. State 0 is the initial one."""
        start: Item = (self._tree, None)
        if self._search:
            start = (ANY_TEXT, start)
        first = (self._item(start, self._search), Before.NONE)
        numbers = {first: 0}
        edges: list[dict[int, list[Chars]]] = []
        accepting = set()
        for state, before in (waiting := [first]):
            own: dict[int, list[Chars]] = {}
            edges.append(own)
            if self._stepped(state, before, None) == _TRUE:
                accepting.add(len(edges) - 1)
            for cell in self._cells:
                after = self._stepped(state, before, cell)
                if after == _FALSE:
                    continue
                target = (after, self._before(cell) if after != _TRUE else Before.OTHER)
                if target not in numbers:
                    if len(numbers) >= _MOST_STATES:
                        raise _too_large()
                    numbers[target] = len(numbers)
                    waiting.append(target)
                own.setdefault(numbers[target], []).append(cell.chars)
        return edges, accepting

    def _before(self, cell: _Cell) -> Before:
        if self._has_boundary and WORD_CHAR in cell.classes:
            return Before.WORD
        return Before.OTHER if self._looks_back else Before.NONE

    # Functions of items.

    def _item(self, item: Item, endless: bool) -> Node:
        """The function that `item` matches the rest of the text; with `endless`, a prefix of it."""
        if item is None and endless:
            return _TRUE
        key = (item, endless)
        if key not in self._item_of:
            self._item_of[key] = len(self._items)
            self._items.append(key)
        return self._node(self._item_of[key], _FALSE, _TRUE)

    def _node(self, variable: int, without: Node, having: Node) -> Node:
        if without == having:
            return without
        key = (variable, without, having)
        if key not in self._node_of:
            self._node_of[key] = len(self._nodes)
            self._nodes.append(key)
        return self._node_of[key]

    def _choice(self, test: Node, having: Node, without: Node) -> Node:
        """If-then-else: `having` where `test` is true, otherwise `without`."""
        if test in (_FALSE, _TRUE):
            return having if test == _TRUE else without
        if having == without:
            return having
        key = (test, having, without)
        known = self._chosen.get(key)
        if known is None:
            self._spend()
            top = min(self._nodes[n][0] for n in key if n > _TRUE)
            low, high = (
                self._choice(*(self._branch(node, top, side) for node in key)) for side in (1, 2)
            )
            known = self._chosen[key] = self._node(top, low, high)
        return known

    def _branch(self, node: Node, variable: int, side: int) -> Node:
        own = self._nodes[node]
        return own[side] if own[0] == variable else node

    def _any(self, nodes: Iterable[Node]) -> Node:
        found = _FALSE
        for node in nodes:
            found = self._choice(found, _TRUE, node)
        return found

    def _spend(self) -> None:
        self._work += 1
        if self._work > _MOST_WORK:
            raise _too_large()

    # One character further.

    def _stepped(self, state: Node, before: Before, cell: _Cell | None) -> Node:
        known: dict[Node, Node] = {_FALSE: _FALSE, _TRUE: _TRUE}

        def stepped(node: Node) -> Node:
            if node not in known:
                variable, without, having = self._nodes[node]
                item, endless = self._items[variable]
                met = _Step(self, before, cell, endless).of(item, frozenset())
                known[node] = self._choice(met, stepped(having), stepped(without))
            return known[node]

        return stepped(state)


class _Step:
    """The derivative of an item by one character, or whether it matches at the end of the text."""

    def __init__(
        self, automaton: _Automaton, before: Before, cell: _Cell | None, endless: bool
    ) -> None:
        self._automaton = automaton
        self._before = before
        self._cell = cell
        self._endless = endless

    def of(self, item: Item, rounds: frozenset[Item]) -> Node:
        """`rounds`: the repetitions that began a round at this position."""
        automaton, cell = self._automaton, self._cell
        automaton._spend()
        if item is None:
            return _TRUE if self._endless or cell is None else _FALSE
        tree, rest = item
        match tree:
            case Chars():
                if cell is None or not _is_in(cell, tree):
                    return _FALSE
                return automaton._item(rest, self._endless)
            case Edge(start):
                at_edge = self._before is Before.NONE if start else cell is None
                return self.of(rest, rounds) if at_edge else _FALSE
            case Boundary(negated):
                word_next = cell is not None and WORD_CHAR in cell.classes
                at_boundary = (self._before is Before.WORD) != word_next
                return self.of(rest, rounds) if at_boundary != negated else _FALSE
            case Look(part, negated):
                seen = _Step(automaton, self._before, cell, True).of((part, None), frozenset())
                behind = self.of(rest, rounds)
                if negated:
                    return automaton._choice(seen, _FALSE, behind)
                return automaton._choice(seen, behind, _FALSE)
            case Seq(parts):
                for part in reversed(parts):
                    rest = (part, rest)
                return self.of(rest, rounds)
            case Alt(options):
                return automaton._any(self.of((option, rest), rounds) for option in options)
            case Repeat(part, least, most):
                if most == 0:
                    return self.of(rest, rounds)
                again = Repeat(part, max(least - 1, 0), None if most is None else most - 1)
                # An empty round can be repeated, so further rounds at this position change nothing.
                loop = (part, rest)
                if loop in rounds:
                    return self.of(rest, rounds)
                round_ = self.of((part, (again, rest)), rounds | {loop})
                if least:
                    return round_
                return automaton._any((self.of(rest, rounds), round_))
        raise AssertionError(tree)


def _is_in(cell: _Cell, chars: Chars) -> bool:
    return all(factor in cell.classes for factor in factors(chars))


def _cells(tree: Regex, has_boundary: bool) -> list[_Cell]:
    classes: dict[Chars, None] = {WORD_CHAR: None} if has_boundary else {}

    def gather(part: Regex) -> bool:
        if isinstance(part, Chars):
            classes.update(dict.fromkeys(factors(part)))
        return False

    holds_any(tree, gather)
    cells = [_Cell(Chars(EVERY), frozenset((Chars(EVERY),)))]
    for one in classes:
        split = []
        for cell in cells:
            inside, outside = (chars_of_both(cell.chars, side) for side in (one, complement(one)))
            if isinstance(inside, Chars):
                split.append(_Cell(inside, cell.classes | {one}))
            if isinstance(outside, Chars):
                split.append(_Cell(outside, cell.classes - {one}))
        cells = split
        if len(cells) > _MOST_CELLS:
            raise _too_large()
    return cells


def _too_large() -> RegexError:
    return RegexError(
        "look-aheads, word boundaries or anchors inside of a repetition that take too large an "
        "automaton"
    )


# From an automaton to a regex.


def _as_regex(edges: list[dict[int, list[Chars]]], accepting: set[int]) -> Regex:
    edges, accepting = _smallest(edges, accepting)
    start, end = -1, -2
    paths: dict[tuple[int, int], Regex] = {(start, 0): EMPTY}
    for source, own in enumerate(edges):
        for target, chars in own.items():
            paths[source, target] = alt(*_united(chars))
    paths |= {(state, end): EMPTY for state in accepting}
    left = set(range(len(edges)))
    while left:
        state = min(left, key=lambda one: _cost(one, paths))
        left.remove(state)
        loop = paths.pop((state, state), None)
        into = {s: paths.pop((s, t)) for s, t in list(paths) if t == state}
        out_of = {t: paths.pop((s, t)) for s, t in list(paths) if s == state}
        around = EMPTY if loop is None else Repeat(loop, 0, None)
        for source, before in into.items():
            for target, behind in out_of.items():
                path = seq(before, around, behind)
                paths[source, target] = alt(paths.get((source, target), NOTHING), path)
                if _size(paths[source, target]) > _MOST_PARTS:
                    raise _too_large()
    return paths.get((start, end), NOTHING)


def _cost(state: int, paths: dict[tuple[int, int], Regex]) -> int:
    into = [source for source, target in paths if target == state != source]
    out_of = [target for source, target in paths if source == state != target]
    sizes = sum(_size(path) for edge, path in paths.items() if state in edge)
    return len(into) * len(out_of) * sizes


def _size(tree: Regex) -> int:
    match tree:
        case Seq(parts) | Alt(parts):
            return 1 + sum(map(_size, parts))
        case Repeat(part, _, _):
            return 1 + _size(part)
    return 1


def _united(chars: list[Chars]) -> list[Chars]:
    """The same characters in as few classes as possible."""
    plain = [one for one in chars if not one.properties]
    whole = merged(pair for one in plain for pair in one.ranges)
    return [*([Chars(whole)] if plain else []), *(one for one in chars if one.properties)]


def _smallest(
    edges: list[dict[int, list[Chars]]], accepting: set[int]
) -> tuple[list[dict[int, list[Chars]]], set[int]]:
    """The minimal automaton: no dead states, and equivalent states merged (Moore)."""
    alive = _leading_to(accepting, edges)
    if 0 not in alive:
        return [{}], set()
    group = {state: int(state in accepting) for state in alive}
    while True:
        keys = {
            state: (
                group[state],
                frozenset(
                    (c, group[t]) for t, own in edges[state].items() if t in alive for c in own
                ),
            )
            for state in sorted(alive)
        }
        order = {key: at for at, key in enumerate(dict.fromkeys(keys.values()))}
        new = {state: order[keys[state]] for state in alive}
        if len(set(new.values())) == len(set(group.values())):
            break
        group = new
    merged_edges: list[dict[int, list[Chars]]] = [{} for _ in order]
    done = set()
    for state in sorted(alive):
        if new[state] in done:
            continue
        done.add(new[state])
        for target, chars in edges[state].items():
            if target in alive:
                merged_edges[new[state]].setdefault(new[target], []).extend(chars)
    return merged_edges, {new[state] for state in accepting}


def _leading_to(accepting: set[int], edges: list[dict[int, list[Chars]]]) -> set[int]:
    alive = set(accepting)
    while True:
        more = {s for s, own in enumerate(edges) if s not in alive and not alive.isdisjoint(own)}
        if not more:
            return alive
        alive |= more
