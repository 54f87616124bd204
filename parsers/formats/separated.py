"""Arguments in a row, of which some may be left out, with a separator between them."""

from __future__ import annotations

from collections.abc import Sequence

from formgate.parsers.tree import nodes
from formgate.parsers.tree.nodes import Node


def separated(arguments: Sequence[tuple[Node, bool]], separator: str) -> Node:
    """`arguments`: (grammar, whether it is required), in their order."""
    anchor = next((i for i, (_, required) in enumerate(arguments) if required), None)
    if anchor is None:
        each = [argument for argument, _ in arguments]
        return nodes.optional(_at_least_one(each, separator)) if each else nodes.EMPTY
    # Every argument brings its own separator, except the first required one.
    before = [
        nodes.optional(nodes.seq([argument, nodes.text(separator)]))
        for argument, _ in arguments[:anchor]
    ]
    after = [
        _behind(argument, separator, required) for argument, required in arguments[anchor + 1 :]
    ]
    return nodes.seq([*before, arguments[anchor][0], *after])


def _at_least_one(arguments: Sequence[Node], separator: str) -> Node:
    """At least one of these optional arguments. Splitting in halves repeats each argument only
    O(log n) times in the tree.
    """
    if len(arguments) == 1:
        return arguments[0]
    half = len(arguments) // 2
    first, second = arguments[:half], arguments[half:]
    behind = [_behind(argument, separator, False) for argument in second]
    return nodes.choice(
        [
            nodes.seq([_at_least_one(first, separator), *behind]),
            _at_least_one(second, separator),
        ]
    )


def _behind(argument: Node, separator: str, required: bool) -> Node:
    node = nodes.seq([nodes.text(separator), argument])
    return node if required else nodes.optional(node)
