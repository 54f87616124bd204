"""From an answer tree (what a model may write, as plain dicts) to one Lark grammar in llguidance's
dialect. Every node becomes an expression; schemas, regexes and free text become rules of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from llguidance.gbnf_to_lark import any_to_lark

from formgate.constrain.errors import ConstraintError

Node = Mapping[str, Any]

# json.dumps style, and nothing else: no run of white space for a model to lose itself in, and
# every separator is forced.
SEPARATORS = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}


def to_lark(root: Node) -> str:
    """Raises ConstraintError for a node that cannot be written down."""
    writer = _Writer()
    start = writer.expression(root)
    return "\n".join([f"start: {start}", *writer.rules, ""])


class _Writer:
    def __init__(self) -> None:
        self.rules: list[str] = []

    def expression(self, node: Node) -> str:
        match node["kind"]:
            case "text":
                return _literal(node["value"])
            case "token":
                return f"<[{node['id']}]>"
            case "json":
                schema = node["schema"]
                return self._json(
                    schema if isinstance(schema, Mapping) else _boolean_schema(schema),
                    node.get("whitespace_pattern"),
                )
            case "json_object":
                return self._json({"type": "object"}, node.get("whitespace_pattern"))
            case "regex":
                return self._rule("REGEX", f"/{_whole_match(node['pattern'])}/")
            case "lark":
                return self._rule("grammar", f"%lark {{\n{_lark_source(node['source'])}\n}}")
            case "free":
                return self._rule("FREE", "/(?s:.*)/")
            case "free_text_until":
                pattern = re.escape(node["text"]).replace("/", "\\/")
                return self._rule("until", f"/(?s:.*){pattern}/", "[lazy]")
            case "seq":
                return "(" + " ".join(self.expression(item) for item in node["items"]) + ")"
            case "choice":
                return "(" + " | ".join(self.expression(item) for item in node["items"]) + ")"
            case "repeat":
                return self._repeat(node)
        raise AssertionError(f"unknown node {node['kind']!r}")

    def _json(self, schema: Mapping[str, Any], whitespace_pattern: str | None) -> str:
        options: dict[str, Any] = SEPARATORS
        if whitespace_pattern is not None:
            options = {"whitespace_flexible": True, "whitespace_pattern": whitespace_pattern}
        # Ours replaces any that came with the schema: it must not loosen its own enforcement.
        return self._rule("json", "%json " + json.dumps({**schema, "x-guidance": options}))

    def _repeat(self, node: Node) -> str:
        item = self.expression(node["item"])
        least, most = node["min"], node["max"]
        separator = node.get("separator")
        if separator is None:
            return f"({item}){_times(least, most)}"
        more = None if most is None else most - 1
        rest = f"({self.expression(separator)} {item}){_times(max(0, least - 1), more)}"
        some = f"({item} {rest})"
        return some if least else f"{some}?"

    def _rule(self, kind: str, body: str, attributes: str = "") -> str:
        name = f"{kind}_{len(self.rules)}"
        self.rules.append(f"{name}{attributes}: {body}")
        return name


def _times(least: int, most: int | None) -> str:
    return f"{{{least},{'' if most is None else most}}}"


def _literal(value: str) -> str:
    return json.dumps(value)


def _boolean_schema(allows: bool) -> Mapping[str, Any]:
    if not allows:
        raise ConstraintError(
            "The schema `false` allows no value at all.", code="unsupported_schema"
        )
    return {}


def _whole_match(pattern: str) -> str:
    """The pattern must match all of the answer, with or without its own outer anchors."""
    pattern = pattern.removeprefix("^")
    if pattern.endswith("$") and not pattern.endswith("\\$"):
        pattern = pattern[:-1]
    pattern = re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\\/", pattern)
    return pattern.replace("\n", "\\n").replace("\r", "\\r")


def _lark_source(source: str) -> str:
    try:
        lark: str = any_to_lark(source)
    except Exception as error:  # the converter's own error type is not exported
        raise ConstraintError(f"The grammar is not valid: {error}", code="invalid_grammar") from (
            error
        )
    return lark
