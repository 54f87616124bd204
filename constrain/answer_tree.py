"""Compiles an answer tree (nested dicts that describe an answer) to one grammar in llguidance's
Lark dialect. Every node becomes an expression; schemas, regexes and free text become rules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher

from formgate.constrain.errors import ConstraintError
from formgate.constrain.grammar.shortest import byte_tokenizer
from formgate.constrain.masks.text_before import (
    AT_START,
    JSON_END,
    AnswerNode,
    Befores,
    after,
    before_each,
    some,
)
from formgate.constrain.notations.gbnf import is_gbnf
from formgate.constrain.notations.gbnf_lark import gbnf_to_lark
from formgate.constrain.notations.lark_grammar import check_lark
from formgate.constrain.notations.lark_in_json import lark_in_json
from formgate.constrain.regex.request_regexes import regex_term, white_space
from formgate.constrain.rules.grammar_builder import Spacing
from formgate.constrain.rules.guard_plan import GuardPlan
from formgate.constrain.rules.json_schema import ReadSchemas, guard_refusal, schema_grammar


@dataclass(frozen=True, slots=True)
class LarkGrammar:
    """`guards`: each anchor, the text that directly precedes a guarded JSON text ("" at the start
    of the answer), with its plan. `native`: llguidance's own JSON compiler reads some schema.
    `endings`: the texts that end its free texts.
    """

    source: str
    guards: tuple[tuple[bytes, GuardPlan], ...]
    native: bool
    endings: tuple[str, ...] = ()


def to_lark(
    root: AnswerNode, token_bytes: Sequence[bytes], *, native: bool, read: ReadSchemas | None = None
) -> LarkGrammar:
    """Compile the tree. With `native`, schemas are left to llguidance where it enforces them
    exactly. Raises ConstraintError.
    """
    writer = _TreeWriter(token_bytes, native, read or ReadSchemas())
    start = writer.expression(root)
    source = "\n".join([f"start: {start}", *writer.rules, ""])
    endings = tuple(dict.fromkeys(writer.endings))
    return LarkGrammar(source, writer.all_guards(), writer.is_native, endings)


class _TreeWriter:
    def __init__(self, token_bytes: Sequence[bytes], native: bool, read: ReadSchemas) -> None:
        self._token_bytes = token_bytes
        self._read = read
        self._native = native
        self.rules: list[str] = []
        self.is_native = False
        self.endings: list[str] = []
        self._guards: dict[bytes, GuardPlan] = {}
        self._unguarded: dict[bytes, GuardPlan] = {}
        self._before = AT_START

    def all_guards(self) -> tuple[tuple[bytes, GuardPlan], ...]:
        guards = self._guards
        if any(text.startswith(JSON_END) for text in guards):
            guards = self._unguarded | guards  # a guard after JSON needs the ends of these too
        return tuple(guards.items())

    def expression(self, node: AnswerNode) -> str:
        match node["kind"]:
            case "seq":
                return "(" + " ".join(self.expression(item) for item in node["items"]) + ")"
            case "choice":
                return self._choice(node["items"])
            case "repeat":
                return self._repeat(node)
        written = self._leaf(node)
        self._before = self._after(node, self._before)
        return written

    def _after(self, node: AnswerNode, befores: Befores) -> Befores:
        return after(node, befores, self._token_bytes)

    def _leaf(self, node: AnswerNode) -> str:
        match node["kind"]:
            case "text":
                return _literal(node["value"])
            case "token":
                return f"<[{node['id']}]>"
            case "json":
                return self._json(node["schema"], node.get("whitespace_pattern"))
            case "json_object":
                return self._json({"type": "object"}, node.get("whitespace_pattern"))
            case "regex":
                return self._regex(node)
            case "lark":
                return self._rule("grammar", f"%lark {{\n{_lark_source(node)}\n}}")
            case "free":
                return self._rule("FREE", "/(?s:.*)/" + _without(node))
            case "free_text_until":
                self.endings.append(node["text"])
                return self._lazy(f"/(?s:.*){_quoted(node['text'])}/" + _without(node))
        raise AssertionError(f"unknown node {node['kind']!r}")

    def _regex(self, node: AnswerNode) -> str:
        """Match the pattern up to `until`: its first occurrence if `lazy`, otherwise its last."""
        term = regex_term(node["pattern"]).text
        _check_matches(term, node["pattern"])
        if "until" not in node:
            return self._rule("REGEX", term + _without(node))
        if node["until"]:
            term = f"({term} /{_quoted(node['until'])}/)"
        term += _without(node)
        return self._lazy(term) if node["lazy"] else self._rule("REGEX", term)

    def _lazy(self, term: str) -> str:
        """A rule that ends at the first match."""
        return self._rule("until", self._rule("UNTIL", term), "[lazy]")

    def _choice(self, items: Sequence[AnswerNode]) -> str:
        before, after_node = self._before, []
        written = []
        for item in items:
            self._before = before
            written.append(self.expression(item))
            after_node.append(self._before)
        self._before = some(*after_node)
        return "(" + " | ".join(written) + ")"

    def _json(self, schema: Any, whitespace_pattern: str | None) -> str:
        name = f"json_{len(self.rules)}"
        native = self._native
        if whitespace_pattern is not None:
            whitespace_pattern = white_space(whitespace_pattern)
            native = False  # llguidance's own compiler makes all white space optional
        spacing = Spacing(whitespace_pattern)
        grammar = schema_grammar(schema, spacing, name, native=native, read=self._read)
        self.is_native |= grammar.native
        if grammar.plan is not None and not all(one.is_known for one in self._before):
            raise guard_refusal(schema)
        guards = self._unguarded if grammar.plan is None else self._guards
        for one in self._before:
            plan = grammar.plan or GuardPlan(())
            known = guards.get(one.text)
            guards[one.text] = plan if known is None else known.beside(plan)
        self.rules += grammar.rules
        return grammar.start

    def _repeat(self, node: AnswerNode) -> str:
        before = self._before
        after_node = self._after(node, before)
        self._before = before_each(node, before, self._token_bytes)
        item = self.expression(node["item"])
        least, most = node["min"], node["max"]
        separator = node.get("separator")
        if separator is None or most == 1:
            self._before = after_node
            return f"({item}){_times(least, most)}"
        more = None if most is None else most - 1
        rest = f"({self.expression(separator)} {item}){_times(max(0, least - 1), more)}"
        self._before = after_node
        items = f"({item} {rest})"
        return items if least else f"{items}?"

    def _rule(self, kind: str, body: str, attributes: str = "") -> str:
        name = f"{kind}_{len(self.rules)}"
        self.rules.append(f"{name}{attributes}: {body}")
        return name


def _check_matches(term: str, pattern: str) -> None:
    """Raises ConstraintError for a pattern that matches no text, which otherwise only the first
    mask would reveal.
    """
    grammar = LLMatcher.grammar_from_lark(f"start: T\nT: {term}\n")
    matcher = LLMatcher(byte_tokenizer(), grammar, log_level=0)
    if matcher.is_error() or matcher.is_accepting():
        return  # an error is reported when the whole grammar is compiled
    matcher.compute_bitmask()
    if "NoExtensionBias" in matcher.get_error():
        raise ConstraintError(f"The regex matches no text: {pattern[:99]}", code="invalid_grammar")


def _without(node: AnswerNode) -> str:
    """The Lark suffix that excludes texts containing one of `without`."""
    texts = "|".join(_quoted(text) for text in node.get("without", ()))
    return f" & ~/(?s:.*)(?:{texts})(?s:.*)/" if texts else ""


def _quoted(text: str) -> str:
    escaped = re.escape(text).replace("/", "\\/")
    return escaped.replace("\\\n", "\\n").replace("\\\r", "\\r").replace("\\\t", "\\t")


def _times(least: int, most: int | None) -> str:
    return f"{{{least},{'' if most is None else most}}}"


def _literal(value: str) -> str:
    return json.dumps(value)


def _lark_source(node: AnswerNode) -> str:
    """The node's grammar as Lark. `source` may be GBNF or Lark, as requests have one field for
    both. `in_json`: the grammar describes the content of a JSON string.
    """
    source: str = node["source"]
    if node.get("in_json"):
        return lark_in_json(source)
    if is_gbnf(source):
        return gbnf_to_lark(source)
    check_lark(source)
    return source
