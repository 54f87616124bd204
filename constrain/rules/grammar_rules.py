"""From the shapes of a schema to the rules of a context-free grammar."""

from __future__ import annotations

from formgate.constrain.algebra.scalar_terms import number_tokens, string_token
from formgate.constrain.algebra.scalars import Numbers, Strings
from formgate.constrain.algebra.shapes import Array, Conjunction, Constants, Object, Shape
from formgate.constrain.errors import Unplaced
from formgate.constrain.grammar.cfg import Rule, Token
from formgate.constrain.rules.array_rules import ArrayRules
from formgate.constrain.rules.grammar_builder import GrammarBuilder, Value
from formgate.constrain.rules.object_rules import add_object

MAX_RULES = 100_000

_COUNTS = (
    *("minItems", "maxItems", "minContains", "maxContains", "minProperties", "maxProperties"),
)
_LARGE = 100
_LARGE_BY_NATURE = (
    *("enum", "const", "prefixItems", "contains", "dependentSchemas", "oneOf", "anyOf", "not"),
    *("if", "allOf", "properties", "items", "$ref"),
)


def build(grammar: GrammarBuilder, schema: Conjunction) -> Rule:
    """Return the rule for a whole text, and add every rule that it needs to `grammar.cfg`. Raises
    ConstraintError beyond `MAX_RULES`.
    """
    start = grammar.value(schema, canonical=False)
    while grammar.waiting:
        value = grammar.waiting.pop()
        rule = grammar.values[value]
        if (leaf := grammar.leaf(value)) is not None:
            grammar.cfg.add(rule, (leaf,))
            continue
        try:
            shapes = tuple(
                shape
                for kind in grammar.algebra.kinds(value.schema)
                for shape in grammar.algebra.shapes(value.schema, kind)
            )
            twin = grammar.of_shapes.setdefault((shapes, value.canonical), rule)
            if twin is not rule:
                grammar.cfg.add(rule, (twin,))
                continue
            for shape in shapes:
                _add(grammar, rule, shape, value.canonical)
            if len(grammar.cfg) > MAX_RULES:
                raise _too_large(f"the grammar has more than {MAX_RULES} rules with it", value)
        except Unplaced as error:
            raise grammar.algebra.placed(error, value.schema) from None
        except RecursionError:
            too_deep = _too_large("it nests too deeply for the compiler", value)
            raise grammar.algebra.placed(too_deep, value.schema) from None
    return start


def _too_large(why: str, value: Value) -> Unplaced:
    """The error of a value. It blames the largest count first, if there is a large one."""
    counts = {
        keyword: count
        for node, _ in value.schema
        if not isinstance(node.schema, bool)
        for keyword in _COUNTS
        if (count := node.schema.get(keyword, 0)) >= _LARGE
    }
    return Unplaced(
        f"{why}. Lower its counts, write fewer of its members, or nest less in it",
        keywords=(*sorted(counts, key=lambda keyword: -counts[keyword]), *_LARGE_BY_NATURE),
        code="schema_too_complex",
    )


def _add(grammar: GrammarBuilder, rule: Rule, shape: Shape, canonical: bool) -> None:
    cfg = grammar.cfg
    match shape:
        case Constants(values):
            for value in sorted(values, key=str):
                text = {None: "null", True: "true", False: "false"}[value]
                cfg.add(rule, (Token(f'"{text}"'),))
        case Numbers():
            for token in number_tokens(shape, canonical=canonical):
                cfg.add(rule, (token,))
        case Strings():
            string = string_token(shape, canonical=canonical)
            if string is not None:
                cfg.add(rule, (string,))
        case Array():
            ArrayRules(grammar, shape, canonical).add(rule)
        case Object():
            add_object(grammar, rule, shape, canonical)
