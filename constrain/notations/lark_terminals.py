"""Writes a terminal's tree as Lark for the content of a JSON string. Without escapes it is one
lexeme. With escapes it is an expression of lexemes that are text without escapes, or one escape.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from formgate.constrain.regex.regex_terms import escapes_of, inside_json, plain_part, plain_ranges
from formgate.constrain.regex.regex_tree import (
    Alt,
    Chars,
    Ranges,
    Regex,
    Repeat,
    Seq,
    common,
    merged,
    nullable,
)

_NONE: Ranges = ()


def escapes_in(tree: Regex) -> bool:
    """True if some text of the tree needs an escape."""
    match tree:
        case Chars():
            return bool(escapes_of(tree))
        case Seq(parts) | Alt(parts):
            return any(map(escapes_in, parts))
        case Repeat(part):
            return escapes_in(part)
    raise AssertionError(tree)


def terminal_lark(tree: Regex) -> str:
    if not escapes_in(tree):
        return f"/{inside_json(tree) or '(?:)'}/"
    if isinstance(tree, Seq) and all(map(_is_character, tree.parts)):
        return _literal(tree.parts)
    return _split(tree, None)


def _is_character(tree: Regex) -> bool:
    if not isinstance(tree, Chars) or tree.properties or len(tree.ranges) != 1:
        return False
    return tree.ranges[0][0] == tree.ranges[0][1]


def _literal(parts: Sequence[Regex]) -> str:
    """A sequence of characters: each escape is a lexeme, and so is the text between two of them."""
    written = [
        f"/{inside_json(part)}/"
        for escaped, group in groupby(parts, escapes_in)
        for part in (group if escaped else [Seq(tuple(group))])
    ]
    return f"({' '.join(written)})"


def _split(tree: Regex, follow: Ranges | None) -> str:
    """An expression whose lexemes are single characters, or runs of characters if the next one
    always shows the end of the run: llguidance keeps only the longest of several lexemes.

    `follow`: the characters of the terminal that may come next; None: the terminal ends here.
    """
    match tree:
        case Chars():
            return _one_of(_units(tree))
        case Seq(parts):
            written: list[str] = []
            for part in reversed(parts):
                written.append(_split(part, follow))
                rest = follow or _NONE
                follow = _union(_first(part), rest if nullable(part) else _NONE)
            return f"({' '.join(reversed(written))})" if written else '""'
        case Alt(options):
            return _one_of([_split(option, follow) for option in options])
        case Repeat(part, least, most):
            options = part.options if isinstance(part, Alt) else (part,)
            chars = next((each for each in options if isinstance(each, Chars)), None)
            after = _union(_first(part), follow or _NONE)
            if chars is not None and most is None and least <= 1 and plain_ranges(chars):
                others = [each for each in options if each is not chars]
                beside = _union(follow or _NONE, *map(_first, others))
                if not common(beside, plain_ranges(chars)):
                    units = [f"/{plain_part(chars)}+/", *_escapes(chars)]
                    units += [_split(each, after) for each in others]
                    return _one_of(units) + ("+" if least else "*")
            return f"({_split(part, after)}){{{least},{'' if most is None else most}}}"
    raise AssertionError(tree)


def _units(chars: Chars) -> list[str]:
    return [*([f"/{plain_part(chars)}/"] if plain_ranges(chars) else []), *_escapes(chars)]


def _escapes(chars: Chars) -> list[str]:
    escapes = escapes_of(chars)
    return [f"/{escapes}/"] if escapes else []


def _one_of(options: Sequence[str]) -> str:
    return f"({' | '.join(options)})"


def _first(tree: Regex) -> Ranges:
    match tree:
        case Chars():
            return plain_ranges(tree)
        case Seq(parts):
            found = _NONE
            for part in parts:
                found = _union(found, _first(part))
                if not nullable(part):
                    break
            return found
        case Alt(options):
            return _union(*map(_first, options))
        case Repeat(part):
            return _first(part)
    raise AssertionError(tree)


def _union(*sets: Ranges) -> Ranges:
    return merged(pair for ranges in sets for pair in ranges)
