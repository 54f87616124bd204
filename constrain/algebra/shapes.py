"""Shapes: the assertions of JSON Schema for one kind of value, as records with an intersection
(`meet`). A shape is one alternative of a schema; a list of shapes is the schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, TypeVar

from formgate.constrain.algebra.presence import (
    Formula,
    Has,
    all_of,
    any_of,
    can_hold,
    conjuncts,
    decide,
    names_in,
)
from formgate.constrain.algebra.scalars import Numbers, Strings, matches
from formgate.constrain.schema.resources import SchemaNode

T = TypeVar("T")

# A schema and whether it must hold or fail.
Literal = tuple[SchemaNode, bool]
# Literals that hold together, in the schema's order; () allows any value.
Conjunction = tuple[Literal, ...]


class Kind(Enum):
    NULL = "null"
    BOOLEAN = "boolean"
    NUMBER = "number"
    STRING = "string"
    ARRAY = "array"
    OBJECT = "object"

    __hash__ = object.__hash__  # by identity, which is faster: kinds are hashed very often


KINDS = tuple(Kind)


@dataclass(frozen=True, slots=True)
class Constants:
    """A set of null and booleans."""

    values: frozenset[bool | None]

    def meet(self, other: Constants) -> Constants | None:
        kept = self.values & other.values
        return Constants(kept) if kept else None


@dataclass(frozen=True, slots=True)
class Items:
    """The schemas of items by index, from one schema. `rest` None asserts nothing."""

    prefix: tuple[Conjunction, ...] = ()
    rest: Conjunction | None = None
    evaluates: bool = True  # whether unevaluatedItems counts these items as evaluated

    def at(self, index: int) -> Conjunction:
        if index < len(self.prefix):
            return self.prefix[index]
        return self.rest or ()


@dataclass(frozen=True, slots=True)
class Count:
    """At least `least` and at most `most` items from index `start` satisfy `schema`."""

    schema: Conjunction
    least: int = 1
    most: int | None = None
    start: int = 0
    evaluates: bool = True


@dataclass(frozen=True, slots=True)
class Array:
    items: tuple[Items, ...] = ()
    least: int = 0
    most: int | None = None
    counts: tuple[Count, ...] = ()
    unique: bool = False

    def meet(self, other: Array) -> Array | None:
        met = Array(
            _both(self.items, other.items),
            max(self.least, other.least),
            _least_of(self.most, other.most),
            _both(self.counts, other.counts),
            self.unique or other.unique,
        )
        return None if met.most is not None and met.least > met.most else met

    def item(self, index: int) -> Conjunction:
        return joined(items.at(index) for items in self.items)

    @property
    def prefix_length(self) -> int:
        """The index from which all items have the same schemas."""
        return max(
            max((len(items.prefix) for items in self.items), default=0),
            max((count.start for count in self.counts), default=0),
        )

    def unannotated(self) -> Array:
        return replace(
            self,
            items=tuple(replace(items, evaluates=False) for items in self.items),
            counts=tuple(replace(count, evaluates=False) for count in self.counts),
        )


@dataclass(frozen=True, slots=True)
class Members:
    """The schemas of members by name, from one schema. `rest` is for names that are neither named
    nor matched by a pattern; None asserts nothing.
    """

    named: tuple[tuple[str, Conjunction], ...] = ()
    matching: tuple[tuple[str, Conjunction], ...] = ()
    rest: Conjunction | None = None
    evaluates: bool = True
    _by_name: dict[str, Conjunction] = field(
        default_factory=dict, compare=False, hash=False, repr=False
    )

    def __post_init__(self) -> None:
        self._by_name.update(self.named)

    def speaks_of_only(self, name: str) -> bool:
        return self._by_name.keys() == {name} and not self.matching and self.rest is None

    def of(self, name: str) -> Conjunction:
        found = self._by_name.get(name)
        if not self.matching:
            return (self.rest or ()) if found is None else found
        parts = [] if found is None else [found]
        parts += [schema for pattern, schema in self.matching if matches(pattern, name)]
        if not parts and self.rest is not None:
            return self.rest
        return joined(parts) if len(parts) != 1 else parts[0]


@dataclass(frozen=True, slots=True)
class Some:
    """A member exists whose name and value satisfy the schemas. The name matches `pattern` (None:
    any name), is not in `but`, and matches none of `but_matching`.
    """

    value: Conjunction
    name: Conjunction = ()
    pattern: str | None = None
    but: frozenset[str] = frozenset()
    but_matching: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class OneOf:
    """A `oneOf` that `OneOfs.resolved` has not expanded yet."""

    branches: tuple[SchemaNode, ...]
    tracked: bool


@dataclass(frozen=True, slots=True)
class Object:
    members: tuple[Members, ...] = ()
    presence: Formula = True
    least: int = 0
    most: int | None = None
    names: Conjunction = ()
    some: tuple[Some, ...] = ()
    one_of: tuple[OneOf, ...] = ()

    def meet(self, other: Object) -> Object | None:
        met = Object(
            _both(self.members, other.members),
            all_of(self.presence, other.presence),
            max(self.least, other.least),
            _least_of(self.most, other.most),
            joined((self.names, other.names)),
            _both(self.some, other.some),
            _both(self.one_of, other.one_of),
        )
        if met.presence is False or (met.most is not None and met.least > met.most):
            return None
        return met

    @property
    def assertions(self) -> frozenset[Formula | Members | Literal | Some | OneOf]:
        """The assertions of the shape except the counts."""
        return conjuncts(self.presence).union(self.members, self.names, self.some, self.one_of)

    def covers(self, other: Object) -> bool:
        """True if the counts of `other` are within these. For an `other` with all assertions of
        this shape, `other` is then a special case of it.
        """
        return self.least <= other.least and (
            self.most is None or (other.most is not None and other.most <= self.most)
        )

    def known_names(self) -> list[str]:
        """Names in the order of the schemas, then names that only `presence` mentions."""
        known = {name: None for members in self.members for name, _ in members.named}
        known.update(dict.fromkeys(sorted(names_in(self.presence))))
        return list(known)

    def member(self, name: str) -> Conjunction:
        parts = [part for members in self.members if (part := members.of(name))]
        return joined(parts) if len(parts) > 1 else parts[0] if parts else ()

    def patterns(self) -> list[str]:
        return list({pattern: None for members in self.members for pattern, _ in members.matching})

    def with_plain_some(self) -> Object:
        """Move each `Some` that only asserts a name into `presence`, if all names are known."""
        if not self.some:
            return self
        closed = [
            members for members in self.members if not members.matching and _is_false(members.rest)
        ]
        if not closed:
            return self
        names = [name for name, _ in closed[0].named]
        formula = self.presence
        kept = []
        for some in self.some:
            if some.name or some.pattern is not None or not _is_true(some.value):
                kept.append(some)
                continue
            others = [
                name
                for name in names
                if name not in some.but and not any(matches(p, name) for p in some.but_matching)
            ]
            formula = all_of(formula, any_of(*map(Has, others)))
        return replace(self, some=tuple(kept), presence=formula)

    def unannotated(self) -> Object:
        return replace(
            self, members=tuple(replace(members, evaluates=False) for members in self.members)
        )

    def without(self, absent: Iterable[str]) -> Formula:
        """The remaining presence formula if these members are absent; False if it cannot hold."""
        formula = self.presence
        for name in absent:
            formula = decide(formula, name, False)
        return formula if can_hold(formula) else False


Shape = Constants | Numbers | Strings | Array | Object
LazyShapes = Callable[[], list[Shape]]

TOP: Mapping[Kind, Shape] = {
    Kind.NULL: Constants(frozenset((None,))),
    Kind.BOOLEAN: Constants(frozenset((True, False))),
    Kind.NUMBER: Numbers(),
    Kind.STRING: Strings(),
    Kind.ARRAY: Array(),
    Kind.OBJECT: Object(),
}


def joined(parts: Iterable[Conjunction]) -> Conjunction:
    """The conjunction of all parts, without duplicate literals."""
    all_parts = [part for part in parts if part]
    if not all_parts:
        return ()
    if len(all_parts) == 1:
        return all_parts[0]
    return tuple(dict.fromkeys(literal for part in all_parts for literal in part))


def meet(one: Shape, two: Shape) -> Shape | None:
    """The intersection of two shapes of one kind; None if it is found to be empty."""
    assert type(one) is type(two)
    return one.meet(two)  # type: ignore[arg-type]


def _is_true(schema: Conjunction) -> bool:
    return all(node.schema is holds for node, holds in schema)


def _is_false(schema: Conjunction | None) -> bool:
    return schema is not None and any(node.schema is (not holds) for node, holds in schema)


def _both(one: tuple[T, ...], two: tuple[T, ...]) -> tuple[T, ...]:
    if not one or not two:
        return one or two
    return tuple(dict.fromkeys(one + two))


def _least_of(one: int | None, two: int | None) -> int | None:
    if one is None or two is None:
        return one if two is None else two
    return min(one, two)


_NOWHERE = "const:"  # the base of schemas that stand nowhere in the document


class ConstantSchemas:
    """Rewrites a constant array or object as a schema for its parts."""

    def __init__(self) -> None:
        # By identity, with the value, so that no other one gets its id.
        self._nodes: dict[int, tuple[Any, SchemaNode]] = {}
        self._owners: dict[str, SchemaNode] = {}

    def of(self, owner: SchemaNode, value: Any) -> SchemaNode:
        """`owner`: the schema that names the constant."""
        known = self._nodes.get(id(value))
        if known is None:
            schema: dict[str, Any]
            if isinstance(value, list):
                schema = {"type": "array", "minItems": len(value), "maxItems": len(value)}
                if value:
                    schema["prefixItems"] = [{"const": item} for item in value]
            else:
                schema = {
                    "type": "object",
                    "properties": {name: {"const": part} for name, part in value.items()},
                    "required": list(value),
                    "additionalProperties": False,
                }
            name = f"#{len(self._nodes)}"
            known = self._nodes[id(value)] = value, SchemaNode(schema, ("const", name), _NOWHERE)
            self._owners[name] = self.owner(owner)
        return known[1]

    def owner(self, node: SchemaNode) -> SchemaNode:
        """The schema of the document that a node belongs to: most often itself."""
        return self._owners[str(node.path[1])] if node.base == _NOWHERE else node
