"""The keywords for objects, as clauses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

from formgate.constrain.algebra.clauses import Clause, listed
from formgate.constrain.algebra.presence import Formula, Has, Not, all_of, any_of, negation, one_of
from formgate.constrain.algebra.scalar_keywords import checked_pattern
from formgate.constrain.algebra.shapes import Conjunction, LazyShapes, Members, Object, Shape, Some
from formgate.constrain.schema.resources import SchemaNode

Child = Callable[..., SchemaNode]
OfLiteral = Callable[[SchemaNode, bool], list[Shape]]
FormulaOf = Callable[[SchemaNode], Formula | None]


def presence_clause(formula: Formula) -> Clause:
    return listed(
        [] if formula is False else [Object(presence=formula)],
        [] if formula is True else [Object(presence=negation(formula))],
    )


def object_clauses(
    node: SchemaNode, child: Child, literal: OfLiteral, formula_of: FormulaOf
) -> Iterator[Clause]:
    schema = node.schema
    if any(k in schema for k in ("properties", "patternProperties", "additionalProperties")):
        yield _members(node, child)
    if schema.get("required"):
        yield presence_clause(all_of(*(Has(name) for name in schema["required"])))
    yield from _dependencies(node, child, literal, formula_of)
    if "propertyNames" in schema:
        names: Conjunction = ((child(node, "propertyNames"), True),)
        wrong: Conjunction = ((child(node, "propertyNames"), False),)
        yield listed([Object(names=names)], [Object(some=(Some((), name=wrong),))])
    if least := int(schema.get("minProperties", 0)):
        yield listed([Object(least=least)], [Object(most=least - 1)])
    if "maxProperties" in schema:
        most = int(schema["maxProperties"])
        yield listed([Object(most=most)], [Object(least=most + 1)])


def _members(node: SchemaNode, child: Child) -> Clause:
    schema = node.schema
    named = {name: child(node, "properties", name) for name in schema.get("properties", ())}
    matching = {
        checked_pattern(pattern, (*node.path, "patternProperties", pattern), "patternProperties"): (
            child(node, "patternProperties", pattern)
        )
        for pattern in schema.get("patternProperties", ())
    }
    rest = child(node, "additionalProperties") if "additionalProperties" in schema else None
    held = Members(
        tuple((name, ((sub, True),)) for name, sub in named.items()),
        tuple((pattern, ((sub, True),)) for pattern, sub in matching.items()),
        None if rest is None else ((rest, True),),
    )

    def fails() -> list[Shape]:
        ways: list[Shape] = [
            Object(
                members=(Members(((name, ((sub, False),)),), evaluates=False),), presence=Has(name)
            )
            for name, sub in named.items()
            if sub.schema is not True
        ]
        ways += [
            Object(some=(Some(((sub, False),), pattern=pattern),))
            for pattern, sub in matching.items()
            if sub.schema is not True
        ]
        if rest is not None and rest.schema is not True:
            some = Some(((rest, False),), but=frozenset(named), but_matching=frozenset(matching))
            ways.append(Object(some=(some,)))
        return ways

    return Clause(lambda: [Object(members=(held,))], fails)


def _dependencies(
    node: SchemaNode, child: Child, literal: OfLiteral, formula_of: FormulaOf
) -> Iterator[Clause]:
    for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
        for name, needed in node.schema.get(keyword, {}).items():
            absent = Not(Has(name))
            if isinstance(needed, list):
                yield presence_clause(any_of(absent, all_of(*map(Has, needed))))
                continue
            sub = child(node, keyword, name)
            formula = formula_of(sub)
            if formula is not None:
                yield presence_clause(any_of(absent, formula))
            else:
                yield Clause(
                    _either_absent(absent, sub, literal), _present(name, sub, literal, holds=False)
                )


def _either_absent(absent: Formula, sub: SchemaNode, literal: OfLiteral) -> LazyShapes:
    assert isinstance(absent, Not)
    assert isinstance(absent.part, Has)
    present = _present(absent.part.name, sub, literal, holds=True)
    return lambda: [Object(presence=absent), *present()]


def _present(name: str, sub: SchemaNode, literal: OfLiteral, *, holds: bool) -> LazyShapes:
    there = Object(presence=Has(name))

    def ways() -> list[Shape]:
        found = []
        for shape in literal(sub, holds):
            assert isinstance(shape, Object)
            if (met := there.meet(shape)) is not None:
                found.append(met)
        return list(found)

    return ways


def with_unevaluated_properties(way: Shape, rest: SchemaNode) -> Shape:
    """The alternative with `rest` for the members that none of its keywords evaluates."""
    assert isinstance(way, Object)
    seen = [members for members in way.members if members.evaluates]
    if any(members.rest is not None for members in seen):
        return way
    evaluated = Members(
        tuple((name, ()) for members in seen for name, _ in members.named),
        tuple((pattern, ()) for members in seen for pattern, _ in members.matching),
        ((rest, True),),
    )
    return replace(way, members=(*way.members, evaluated))


_NOT_OF_PRESENCE = frozenset(
    {
        *("additionalProperties", "maxProperties", "minProperties", "patternProperties"),
        *("propertyNames", "unevaluatedProperties", "$dynamicRef", "$recursiveRef"),
    }
)


class PresenceReader:
    """Turns a schema that asserts only which members an object has into a formula."""

    def __init__(
        self, child: Child, target: Callable[[SchemaNode], SchemaNode], *, ref_alone: bool
    ) -> None:
        self._child = child
        self._target = target
        self._ref_alone = ref_alone
        self._known: dict[SchemaNode, Formula | None] = {}

    def of(self, node: SchemaNode) -> Formula | None:
        """The formula of a schema for objects; None if the schema asserts more."""
        if node not in self._known:
            self._known[node] = None  # a recursive schema asserts more
            self._known[node] = self._read(node)
        return self._known[node]

    def of_branches(self, keyword: str, subs: list[SchemaNode]) -> Formula | None:
        parts = [self.of(sub) for sub in subs]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        if keyword == "allOf":
            return all_of(*known)
        if keyword == "anyOf":
            return any_of(*known)
        return one_of(known)

    def of_condition(self, node: SchemaNode) -> Formula | None:
        """The formula of `if`, `then` and `else`."""
        condition = self.of(self._child(node, "if"))
        if condition is None:
            return None
        then: Formula | None = True
        otherwise: Formula | None = True
        if "then" in node.schema:
            then = self.of(self._child(node, "then"))
        if "else" in node.schema:
            otherwise = self.of(self._child(node, "else"))
        if then is None or otherwise is None:
            return None
        return any_of(all_of(condition, then), all_of(negation(condition), otherwise))

    def _read(self, node: SchemaNode) -> Formula | None:
        schema = node.schema
        if isinstance(schema, bool):
            return schema
        if "$ref" in schema and self._ref_alone:
            return self.of(self._target(node))
        if not _NOT_OF_PRESENCE.isdisjoint(schema):
            return None
        if any(isinstance(value, dict) for value in [schema.get("const"), *schema.get("enum", ())]):
            return None
        if "const" in schema or "enum" in schema:
            return False
        parts: list[Formula] = []
        for part in chain(self._members(schema), self._dependents(node), self._combined(node)):
            if part is None:
                return None
            parts.append(part)
        return all_of(*parts)

    @staticmethod
    def _members(schema: Mapping[str, Any]) -> Iterator[Formula | None]:
        if "type" in schema:
            yield schema["type"] == "object" or "object" in schema["type"]
        for name, sub in schema.get("properties", {}).items():
            if sub is False:
                yield Not(Has(name))
            elif sub is not True and sub != {}:
                yield None
        for name in schema.get("required", ()):
            yield Has(name)

    def _dependents(self, node: SchemaNode) -> Iterator[Formula | None]:
        for keyword in ("dependentRequired", "dependencies", "dependentSchemas"):
            for name, needed in node.schema.get(keyword, {}).items():
                if isinstance(needed, list):
                    formula: Formula | None = all_of(*map(Has, needed))
                else:
                    formula = self.of(self._child(node, keyword, name))
                yield None if formula is None else any_of(Not(Has(name)), formula)

    def _combined(self, node: SchemaNode) -> Iterator[Formula | None]:
        schema = node.schema
        if "$ref" in schema:
            yield self.of(self._target(node))
        for keyword in ("allOf", "anyOf", "oneOf"):
            if keyword in schema:
                subs = [self._child(node, keyword, at) for at in range(len(schema[keyword]))]
                yield self.of_branches(keyword, subs)
        if "not" in schema:
            inner = self.of(self._child(node, "not"))
            yield None if inner is None else negation(inner)
        if "if" in schema:
            yield self.of_condition(node)
