"""Turns a content constraint into nodes of the answer tree."""

from __future__ import annotations

from collections.abc import Mapping

from formgate.gateway.protocol.content_constraint import ContentConstraint
from formgate.parsers.structural.tag import structural_tag_tree
from formgate.parsers.tree import nodes
from formgate.parsers.tree.nodes import Node


def content_node(content: ContentConstraint, special_ids: Mapping[str, int]) -> Node:
    """Raises StructuralTagError."""
    match content.kind:
        case "json":
            return nodes.json_value(content.value, whitespace_pattern=content.whitespace_pattern)
        case "json_object":
            return nodes.json_object(content.whitespace_pattern)
        case "regex":
            return nodes.regex(content.value)
        case "grammar":
            return nodes.lark(content.value)
        case "choice":
            return nodes.choice(nodes.text(value) for value in content.value)
        case "structural_tag":
            return structural_tag_tree(content.value, special_ids)


def content_parts(content: ContentConstraint, node: Node) -> list[tuple[str, Node]]:
    """(request field, node) for each part of the constraint that can be refused by itself."""
    if content.whitespace_pattern is not None:
        spaced = nodes.json_value(True, whitespace_pattern=content.whitespace_pattern)
        return [(content.whitespace_param, spaced), (content.param, node)]
    if content.kind != "structural_tag":
        return [(content.param, node)]
    return [(f"{content.param}#{pointer}", part) for pointer, part in nodes.with_pointers(node)]
