"""From an answer tree (what a model may write, as plain dicts) to one Lark grammar in llguidance's
dialect. Every node becomes an expression; schemas, regexes and free text become rules of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llguidance.gbnf_to_lark import any_to_lark

from formgate.constrain.errors import ConstraintError
from formgate.constrain.grammar_layout import Layout
from formgate.constrain.guard_plan import GuardPlan
from formgate.constrain.json_schema import schema_grammar

Node = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LarkGrammar:
    """`guards`: the texts right behind which a guarded JSON text begins ("" is the beginning of the
    answer), each with its plan. `native`: some of it is left to llguidance's own JSON compiler.
    `endings`: what ends its free texts.
    """

    source: str
    guards: tuple[tuple[bytes, GuardPlan], ...]
    native: bool
    endings: tuple[str, ...] = ()


def to_lark(root: Node, token_bytes: Sequence[bytes], *, native: bool) -> LarkGrammar:
    """Raises ConstraintError for a node that cannot be written down."""
    writer = _Writer(token_bytes, native)
    start = writer.expression(root)
    source = "\n".join([f"start: {start}", *writer.rules, ""])
    endings = tuple(dict.fromkeys(writer.endings))
    return LarkGrammar(source, tuple(writer.guards), writer.is_native, endings)


class _Writer:
    def __init__(self, token_bytes: Sequence[bytes], native: bool) -> None:
        self._token_bytes = token_bytes
        self._native = native
        self.rules: list[str] = []
        self.guards: list[tuple[bytes, GuardPlan]] = []
        self.is_native = False
        self.endings: list[str] = []
        # The text that surely stands right before the node in hand, and whether it is all of it.
        self._before = b""
        self._from_start = True

    def expression(self, node: Node) -> str:
        match node["kind"]:
            case "text":
                self._before += node["value"].encode()
                return _literal(node["value"])
            case "token":
                self._before += self._token_bytes[node["id"]]
                return f"<[{node['id']}]>"
            case "seq":
                return "(" + " ".join(self.expression(item) for item in node["items"]) + ")"
            case "choice":
                return self._choice(node["items"])
            case "repeat":
                return self._repeat(node)
        rule = self._leaf(node)
        self._unknown_before()
        return rule

    def _leaf(self, node: Node) -> str:
        match node["kind"]:
            case "json":
                return self._json(node["schema"], node.get("whitespace_pattern"))
            case "json_object":
                return self._json({"type": "object"}, node.get("whitespace_pattern"))
            case "regex":
                return self._rule("REGEX", f"/{_whole_match(node['pattern'])}/")
            case "lark":
                return self._rule("grammar", f"%lark {{\n{_lark_source(node['source'])}\n}}")
            case "free":
                return self._rule("FREE", "/(?s:.*)/")
            case "free_text_until":
                self.endings.append(node["text"])
                pattern = re.escape(node["text"]).replace("/", "\\/")
                return self._rule("until", f"/(?s:.*){pattern}/", "[lazy]")
        raise AssertionError(f"unknown node {node['kind']!r}")

    def _choice(self, items: Sequence[Node]) -> str:
        before, from_start = self._before, self._from_start
        written = []
        for item in items:
            self._before, self._from_start = before, from_start
            written.append(self.expression(item))
        self._unknown_before()
        return "(" + " | ".join(written) + ")"

    def _unknown_before(self) -> None:
        self._before, self._from_start = b"", False

    def _json(self, schema: Any, whitespace_pattern: str | None) -> str:
        name = f"json_{len(self.rules)}"
        grammar = schema_grammar(schema, Layout(whitespace_pattern), name, native=self._native)
        self.is_native |= grammar.native
        if grammar.plan is not None:
            if not self._before and not self._from_start:
                raise ConstraintError(
                    "'uniqueItems' and the like cannot be enforced where nothing fixed stands "
                    "before the JSON text.",
                    code="unsupported_schema",
                )
            self.guards.append((b"" if self._from_start else self._before, grammar.plan))
        self.rules += grammar.rules
        return grammar.start

    def _repeat(self, node: Node) -> str:
        self._unknown_before()
        item = self.expression(node["item"])
        self._unknown_before()
        least, most = node["min"], node["max"]
        separator = node.get("separator")
        if separator is None:
            return f"({item}){_times(least, most)}"
        more = None if most is None else most - 1
        rest = f"({self.expression(separator)} {item}){_times(max(0, least - 1), more)}"
        self._unknown_before()
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
