"""A constraint on content as the answer tree says it, and the parts of it that a client wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from formgate.gateway.protocol.constraints import ContentConstraint
from formgate.parsers.structural.tag import leaves, structural_tag_tree
from formgate.parsers.tree import nodes
from formgate.parsers.tree.nodes import Node


def content_node(content: ContentConstraint, special_ids: Mapping[str, int]) -> Node:
    """Raises StructuralTagError."""
    match content.kind:
        case "json":
            node = nodes.json_value(content.value)
            if content.whitespace_pattern is not None:
                node["whitespace_pattern"] = content.whitespace_pattern
            return node
        case "json_object":
            if content.whitespace_pattern is None:
                return {"kind": "json_object"}
            return {"kind": "json_object", "whitespace_pattern": content.whitespace_pattern}
        case "regex":
            return nodes.regex(content.value)
        case "grammar":
            return {"kind": "lark", "source": content.value}
        case "choice":
            return nodes.choice(nodes.text(value) for value in content.value)
        case "structural_tag":
            return cast(Node, structural_tag_tree(content.value, special_ids))


def content_parts(content: ContentConstraint, node: Node) -> list[tuple[str, Node]]:
    """What can be refused by itself, each with the field that it stands in."""
    if content.whitespace_pattern is not None:
        spaced = nodes.json_value(True)
        spaced["whitespace_pattern"] = content.whitespace_pattern
        return [(content.whitespace_param, spaced), (content.param, node)]
    if content.kind != "structural_tag":
        return [(content.param, node)]
    return [(f"{content.param}#{leaf['pointer']}", cast(Node, leaf)) for leaf in leaves(dict(node))]
