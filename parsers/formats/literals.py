"""Literals of a format as nodes of an answer tree: special tokens by id if the tokenizer has them,
else text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from formgate.parsers.text.symbols import Marker, Written
from formgate.parsers.tree import nodes
from formgate.parsers.tree.nodes import Node


def literal(part: Written, special_ids: Mapping[str, int]) -> Node:
    if isinstance(part, Marker) and (token_id := special_ids.get(part.text)) is not None:
        return nodes.token(token_id, part.text)
    return nodes.text(part.text if isinstance(part, Marker) else part)


def literals(parts: Sequence[Written], special_ids: Mapping[str, int]) -> list[Node]:
    joined = nodes.seq(literal(part, special_ids) for part in parts)
    if joined["kind"] == "seq":
        return joined["items"]
    return [] if joined == nodes.EMPTY else [joined]


def through(parts: Sequence[Written], special_ids: Mapping[str, int]) -> Node:
    """Free text up to and including these literals."""
    first, *rest = literals(parts, special_ids)
    if first["kind"] == "text":
        return nodes.seq([nodes.free_text_until(first["value"]), *rest])
    return nodes.seq([nodes.free(), first, *rest])
