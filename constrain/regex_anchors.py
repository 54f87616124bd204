"""What the anchors of a pattern come to: a tree without `^` and `$`, for a match of the whole text
or for one anywhere in it.
"""

from __future__ import annotations

from formgate.constrain.regex_syntax import (
    ANY_TEXT,
    EMPTY,
    NOTHING,
    Alt,
    Chars,
    Edge,
    Look,
    Regex,
    RegexError,
    Repeat,
    Seq,
)


def whole(tree: Regex) -> Regex:
    """`tree` for a match of the whole text: anchors at its edges say nothing new."""
    anchored, free = _lead(tree)
    tree = _alt(anchored, free)
    anchored, free = trail(tree)
    return no_edges(_alt(anchored, free))


def searching(tree: Regex) -> Regex:
    """`tree` for a match anywhere: any text where no `^` or `$` holds it to an edge."""
    options = []
    for at_start, head in zip((True, False), _lead(tree), strict=True):
        for at_end, body in zip((True, False), trail(head), strict=True):
            if body == NOTHING:
                continue
            parts = [*(() if at_start else (ANY_TEXT,)), body, *(() if at_end else (ANY_TEXT,))]
            options.append(Seq(tuple(parts)))
    return no_edges(Alt(tuple(options)) if len(options) != 1 else options[0])


def _alt(*options: Regex) -> Regex:
    kept = tuple(option for option in options if option != NOTHING)
    return kept[0] if len(kept) == 1 else Alt(kept)


def _lead(tree: Regex) -> tuple[Regex, Regex]:
    """`tree` as (what follows a leading `^`, what has none)."""
    match tree:
        case Edge(start=True):
            return EMPTY, NOTHING
        case Alt(options):
            pairs = [_lead(option) for option in options]
            return _alt(*(a for a, _ in pairs)), _alt(*(f for _, f in pairs))
        case Seq(parts) if parts:
            anchored, free = _lead(parts[0])
            rest = Seq(parts[1:])
            if isinstance(parts[0], Look):
                # A lookahead takes no text: an anchor behind it still stands at the start.
                inner, other = _lead(rest)
                look = _seq(parts[0], inner) if inner != NOTHING else NOTHING
                return look, _seq(parts[0], other) if other != NOTHING else NOTHING
            after, other = _lead(rest)
            if anchored != NOTHING:
                anchored = _between(after, anchored, _joined(anchored, other))
            free = NOTHING if free == NOTHING else _seq(free, rest)
            if after != NOTHING and free != NOTHING and _nullable(parts[0]):
                raise RegexError("'^' behind something optional, which cannot be enforced")
            return anchored, free
        case Repeat(part, least, most):
            anchored, free = _lead(part)
            if anchored == NOTHING:
                return NOTHING, tree
            if (least, most) == (0, 1):
                return anchored, _alt(EMPTY, free)
            raise RegexError("a repeated '^', which cannot be enforced")
    return NOTHING, tree


def _between(beyond: Regex, part: Regex, whole: Regex) -> Regex:
    """`whole`; or, where `part` stands between two anchors of a kind and takes no text, what is
    `beyond` both.
    """
    if beyond == NOTHING or not _nullable(part):
        return whole
    if not _is_plain(part):
        raise RegexError("an anchor before or behind something optional, which cannot be enforced")
    return _alt(beyond, whole)


def _is_plain(tree: Regex) -> bool:
    """Whether it takes text and looks at nothing else."""
    match tree:
        case Seq(parts):
            return all(map(_is_plain, parts))
        case Alt(options):
            return all(map(_is_plain, options))
        case Repeat(part, _, _):
            return _is_plain(part)
    return isinstance(tree, Chars)


def trail(tree: Regex) -> tuple[Regex, Regex]:
    """`tree` as (what stands before a trailing `$`, what has none)."""
    match tree:
        case Edge(start=False):
            return EMPTY, NOTHING
        case Alt(options):
            pairs = [trail(option) for option in options]
            return _alt(*(a for a, _ in pairs)), _alt(*(f for _, f in pairs))
        case Seq(parts) if parts:
            anchored, free = trail(parts[-1])
            rest = Seq(parts[:-1])
            before, _ = trail(rest)
            if anchored != NOTHING:
                first, second = trail(rest)
                anchored = _between(first, anchored, _joined(second, anchored))
            free = NOTHING if free == NOTHING else _seq(rest, free)
            if before != NOTHING and free != NOTHING and _nullable(parts[-1]):
                raise RegexError("'$' before something optional, which cannot be enforced")
            return anchored, free
        case Repeat(part, least, most):
            anchored, free = trail(part)
            if anchored == NOTHING:
                return NOTHING, tree
            if (least, most) == (0, 1):
                return anchored, _alt(EMPTY, free)
            raise RegexError("a repeated '$', which cannot be enforced")
    return NOTHING, tree


def _joined(first: Regex, second: Regex) -> Regex:
    return NOTHING if NOTHING in (first, second) else _seq(first, second)


def _seq(first: Regex, second: Regex) -> Regex:
    if second == EMPTY:
        return first
    return second if first == EMPTY else Seq((first, second))


def _nullable(tree: Regex) -> bool:
    match tree:
        case Chars():
            return False
        case Seq(parts):
            return all(_nullable(part) for part in parts)
        case Alt(options):
            return any(_nullable(option) for option in options)
        case Repeat(part, least, _):
            return least == 0 or _nullable(part)
    return True


def no_edges(tree: Regex) -> Regex:
    """An anchor that is still inside can never match, but for one in a lookahead."""
    match tree:
        case Edge():
            return NOTHING
        case Seq(parts):
            return Seq(tuple(no_edges(part) for part in parts))
        case Alt(options):
            return Alt(tuple(no_edges(option) for option in options))
        case Repeat(part, least, most):
            return Repeat(no_edges(part), least, most)
    return tree
