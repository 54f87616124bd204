"""The keywords for arrays, as clauses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from formgate.constrain.algebra.clauses import Clause, listed, not_negatable
from formgate.constrain.algebra.shapes import Array, Conjunction, Count, Items, Shape
from formgate.constrain.schema.resources import SchemaNode

Child = Callable[..., SchemaNode]
Either = Callable[[tuple[SchemaNode, ...]], SchemaNode]


def array_clauses(node: SchemaNode, child: Child) -> Iterator[Clause]:
    schema = node.schema
    prefix, rest = _by_place(node, child)
    if prefix or rest is not None:
        held = Items(
            tuple(((sub, True),) for sub in prefix), None if rest is None else ((rest, True),)
        )
        fails: list[Shape] = [
            Array(items=(Items(((),) * at + (((sub, False),),), evaluates=False),), least=at + 1)
            for at, sub in enumerate(prefix)
        ]
        if rest is not None:
            fails.append(Array(counts=(Count(((rest, False),), start=len(prefix)),)))
        yield listed([Array(items=(held,))], fails)
    if least := int(schema.get("minItems", 0)):
        yield listed([Array(least=least)], [Array(most=least - 1)])
    if "maxItems" in schema:
        most = int(schema["maxItems"])
        yield listed([Array(most=most)], [Array(least=most + 1)])
    if schema.get("uniqueItems") is True:
        yield Clause(lambda: [Array(unique=True)], not_negatable(node, "uniqueItems"))
    if "contains" in schema:
        wanted: Conjunction = ((child(node, "contains"), True),)
        fewest = int(schema.get("minContains", 1))
        limit = schema.get("maxContains")
        most_of = None if limit is None else int(limit)
        fails = [Array(counts=(Count(wanted, 0, fewest - 1),))] if fewest else []
        if most_of is not None:
            fails.append(Array(counts=(Count(wanted, most_of + 1),)))
        if most_of is not None and most_of < fewest:
            yield listed([], [Array()])
        else:
            yield listed([Array(counts=(Count(wanted, fewest, most_of),))], fails)


def _by_place(node: SchemaNode, child: Child) -> tuple[list[SchemaNode], SchemaNode | None]:
    """The schemas of the first items, and that of the rest. Up to 2019-09, `items` may be an array:
    it means `prefixItems`, and `additionalItems` means `items`.
    """
    schema = node.schema
    prefix: list[SchemaNode] = []
    if "prefixItems" in schema:
        prefix = [child(node, "prefixItems", at) for at in range(len(schema["prefixItems"]))]
    items = schema.get("items")
    if isinstance(items, list):
        prefix = prefix or [child(node, "items", at) for at in range(len(items))]
        if "additionalItems" in schema:
            return prefix, child(node, "additionalItems")
        return prefix, None
    return prefix, None if items is None else child(node, "items")


def with_unevaluated_items(way: Shape, rest: SchemaNode, either: Either) -> Shape:
    """The alternative with `rest` for the items that none of its keywords evaluates."""
    assert isinstance(way, Array)
    seen = [items for items in way.items if items.evaluates]
    if any(items.rest is not None for items in seen):
        return way
    first = max((len(items.prefix) for items in seen), default=0)
    # `contains` evaluates the items that it matches, so an item matches one, or `rest` applies.
    matching = [
        node
        for count in way.counts
        if count.evaluates and count.most != 0 and len(count.schema) == 1
        for node, holds in count.schema
        if holds
    ]
    under = either((*dict.fromkeys(matching), rest)) if matching else rest
    return replace(way, items=(*way.items, Items(((),) * first, ((under, True),))))
