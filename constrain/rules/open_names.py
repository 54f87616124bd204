"""Members that no schema names: which objects may have them, their classes by the patterns that
their names match, and whether names may run out. They never do if every prefix of a name is a
prefix of infinitely many names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any

from formgate.constrain.algebra.algebra import Algebra
from formgate.constrain.algebra.scalars import Strings
from formgate.constrain.algebra.shapes import Conjunction, Kind, Object, Shape, joined
from formgate.constrain.regex.regex_syntax import parse
from formgate.constrain.regex.regex_tree import Alt, Chars, Edge, Regex, RegexError, Repeat, Seq

MAX_PATTERNS = 4  # with more patterns, no name may match several

_PREFIX = re.compile(r"\^([A-Za-z0-9 _/:@#%&,;=~<>!-]+)")


def unnamed(algebra: Algebra, shape: Object) -> Iterator[tuple[tuple[str, ...], Conjunction]]:
    """The non-empty classes of unnamed members: the patterns that the names match, and the schema
    of the values. Exponential in the patterns, up to `MAX_PATTERNS` of them.
    """
    patterns = shape.patterns()
    most = len(patterns) if len(patterns) <= MAX_PATTERNS else 1
    for size in range(most + 1):
        for chosen in combinations(patterns, size):
            value = joined(_values(shape, chosen))
            if not algebra.is_empty(value):
                yield chosen, value


def _values(shape: Object, chosen: tuple[str, ...]) -> Iterator[Conjunction]:
    for members in shape.members:
        found = [schema for pattern, schema in members.matching if pattern in chosen]
        if found:
            yield joined(found)
        elif members.rest is not None:
            yield members.rest


def names_may_run_out(algebra: Algebra, shape: Object) -> bool:
    """True if the unnamed members' names, or those with some prefix, may be finitely many."""
    if shape.some:
        return True
    chosen = [patterns for patterns, _ in unnamed(algebra, shape)]
    if not chosen:
        return False
    names = algebra.shapes(shape.names, Kind.STRING) if shape.names else ()
    return not _never_run_out(shape.patterns(), chosen, names)


def _never_run_out(
    patterns: Sequence[str], chosen: Collection[tuple[str, ...]], names: Sequence[Shape]
) -> bool:
    """True only if names are proven to never run out. `names`: the shapes of `propertyNames`."""
    if len(names) > 1:
        return False
    if names and isinstance(names[0], Strings) and names[0] != Strings():
        limit = names[0]
        if patterns or limit != Strings(least=limit.least, patterns=limit.patterns):
            return False
        patterns, chosen = tuple(limit.patterns), [tuple(limit.patterns)]
    return names_never_run_out(patterns, chosen)


def names_never_run_out(patterns: Sequence[str], chosen: Collection[tuple[str, ...]]) -> bool:
    """True only if names are proven to never run out. Each class of names in `chosen` matches its
    patterns, and no others of `patterns`.
    """
    if not patterns or len(set(chosen)) == 2 ** len(patterns):
        return True  # all strings
    prefixes = [found[1] for pattern in patterns if (found := _PREFIX.fullmatch(pattern))]
    if len(prefixes) == len(patterns):
        prefixes.sort()
        return not any(two.startswith(one) for one, two in pairwise(prefixes))
    if len(patterns) > 1:
        return False
    return () not in chosen and _is_endless(patterns[0])


def _is_endless(pattern: str) -> bool:
    """True only if every prefix of a match is a prefix of infinitely many matches."""
    try:
        tree = parse(pattern)
    except RegexError:
        return False
    parts = list(tree.parts) if isinstance(tree, Seq) else [tree]
    if parts and parts[0] == Edge(start=True):
        parts = parts[1:]
    if not parts or parts[-1] != Edge(start=False):
        return not any(map(_holds_back, parts))
    body = Seq(tuple(parts[:-1]))
    return not _holds_back(body) and _goes_on(body)


def _holds_back(tree: Regex) -> bool:
    """True if the tree has an assertion, or matches nothing."""
    match tree:
        case Chars():
            return False
        case Seq(parts) | Alt(parts):
            return not parts or any(map(_holds_back, parts))
        case Repeat(part, _, most):
            return most == 0 or _holds_back(part)
    return True


def _goes_on(tree: Regex) -> bool:
    match tree:
        case Repeat(_, _, None):
            return True
        case Repeat(part, _, _):
            return _goes_on(part)
        case Seq(parts):
            return _goes_on(parts[-1])
        case Alt(options):
            return all(map(_goes_on, options))
    return False


def has_open_names(schema: Any) -> bool:
    """True if an instance of a schema that is left to llguidance may have unnamed members."""
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema and len(schema) == 1:
        return False  # the definition is visited in `$defs`
    below = [
        *schema.get("$defs", {}).values(),
        *schema.get("anyOf", ()),
        *schema.get("allOf", ()),
        *schema.get("properties", {}).values(),
        *schema.get("patternProperties", {}).values(),
        *schema.get("prefixItems", ()),
    ]
    below += [schema[keyword] for keyword in ("items", "additionalProperties") if keyword in schema]
    if any(has_open_names(sub) for sub in below if sub is not True):
        return True
    if "enum" in schema or "const" in schema:
        return False
    kinds = schema.get("type")
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    if kinds is None:
        if not schema.keys().isdisjoint(("anyOf", "allOf", "$ref")):
            return "properties" in schema  # the sub-schemas may close the object
        return True
    if "object" in kinds and (
        schema.get("additionalProperties", True) is not False or "patternProperties" in schema
    ):
        return True
    return "array" in kinds and schema.get("items", True) is True
