"""The keywords for null, booleans, numbers and strings, as clauses."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from decimal import Decimal
from typing import Any

from formgate.constrain.algebra.clauses import Clause, listed, not_negatable
from formgate.constrain.algebra.scalars import Numbers, Strings
from formgate.constrain.algebra.shapes import TOP, Constants, Kind, Shape
from formgate.constrain.errors import ConstraintError
from formgate.constrain.regex.formats import FORMATS
from formgate.constrain.regex.number_regex import Bounds
from formgate.constrain.regex.regex_terms import pattern_term
from formgate.constrain.regex.regex_tree import RegexError
from formgate.constrain.schema.resources import SchemaNode


def type_clause(names: Collection[str], kind: Kind) -> Clause:
    top: list[Shape] = [TOP[kind]]
    if kind is Kind.NUMBER and "integer" in names and "number" not in names:
        return listed([Numbers(integer=True)], [Numbers(integer=False)])
    return listed(top, []) if kind.value in names else listed([], top)


def scalar_values(values: list[Any], kind: Kind) -> Clause | None:
    """The clause of `enum` or `const` for a scalar kind; None for arrays and objects."""
    top = TOP[kind]
    match kind:
        case Kind.NULL | Kind.BOOLEAN:
            assert isinstance(top, Constants)
            held = frozenset(v for v in values if v is None or isinstance(v, bool)) & top.values
            left = top.values - held
            return listed([Constants(held)] if held else [], [Constants(left)] if left else [])
        case Kind.NUMBER:
            numbers = frozenset(
                exact(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)
            )
            return listed([Numbers(values=numbers)] if numbers else [], [Numbers(without=numbers)])
        case Kind.STRING:
            strings = tuple(dict.fromkeys(v for v in values if isinstance(v, str)))
            return listed(
                [Strings(values=strings)] if strings else [], [Strings(without=frozenset(strings))]
            )
    return None


def number_clauses(node: SchemaNode) -> Iterator[Clause]:
    for bounds in _bounds(node.schema):
        yield listed([Numbers(bounds=bounds)], [Numbers(bounds=_beyond(bounds))])
    if "multipleOf" in node.schema:
        held: list[Shape] = [Numbers(multiple_of=exact(node.schema["multipleOf"]))]
        yield Clause(lambda: held, not_negatable(node, "multipleOf"))


def _bounds(schema: Any) -> Iterator[Bounds]:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    # In draft 4 the exclusive keywords are booleans that modify the others.
    if low is not None:
        yield Bounds(least=exact(low), above=above is True)
    if high is not None:
        yield Bounds(most=exact(high), below=below is True)
    if above is not None and not isinstance(above, bool):
        yield Bounds(least=exact(above), above=True)
    if below is not None and not isinstance(below, bool):
        yield Bounds(most=exact(below), below=True)


def _beyond(bounds: Bounds) -> Bounds:
    """The complement of a bound on one side."""
    if bounds.least is not None:
        return Bounds(most=bounds.least, below=not bounds.above)
    return Bounds(least=bounds.most, above=not bounds.below)


def string_clauses(node: SchemaNode) -> Iterator[Clause]:
    schema = node.schema
    if least := int(schema.get("minLength", 0)):
        yield listed([Strings(least=least)], [Strings(most=least - 1)])
    if "maxLength" in schema:
        most = int(schema["maxLength"])
        yield listed([Strings(most=most)], [Strings(least=most + 1)])
    if "pattern" in schema:
        pattern = checked_pattern(schema["pattern"], (*node.path, "pattern"), "pattern")
        patterns = frozenset((pattern,))
        yield listed([Strings(patterns=patterns)], [Strings(not_patterns=patterns)])
    if (name := schema.get("format", "")) in FORMATS:
        formats = frozenset((name,))
        yield listed([Strings(formats=formats)], [Strings(not_formats=formats)])


def checked_pattern(pattern: str, path: tuple[str | int, ...], keyword: str) -> str:
    """Return `pattern`. Raises ConstraintError if it cannot be enforced."""
    try:
        pattern_term(pattern, search=True, in_json=True)
    except RegexError as error:
        raise ConstraintError.at(path, f"the regex has {error}", keyword=keyword) from None
    return pattern


def exact(value: float) -> Decimal:
    """The decimal that the schema spells, not the binary fraction of the float."""
    return Decimal(repr(value))
