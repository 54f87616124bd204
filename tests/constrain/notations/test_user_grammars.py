"""Grammars in the notations that users send, and what is said of those that are none."""

from __future__ import annotations

import pytest

from formgate.constrain.errors import ConstraintError

SQL_GBNF = """
    root ::= select_statement
    select_statement ::= "SELECT " column " from " table " where " condition
    column ::= "col_1 " | "col_2 "
    table ::= "table_1 " | "table_2 "
    condition ::= column "= " number
    number ::= "1 " | "2 "
"""
SQL_LARK = """
?start: select_statement

?select_statement: "SELECT " column_list " FROM " table_name

?column_list: column_name ("," column_name)*

?table_name: identifier

?column_name: identifier

?identifier: /[a-zA-Z_][a-zA-Z0-9_]*/
"""
SPREAD = """
# comments, and rules over several lines
root ::= item ("," item)*   # of them
item ::= "\\"" [^"#]* "\\""
  | digit{1,3}
  | "\\u00e9\\n" [\\u4e00-\\u9fff]
digit ::= [0-9]
"""
ARITHMETIC = """
start: sum
sum: product (("+" | "-") product)*
product: atom (("*" | "/") atom)*
atom: NUMBER | "(" sum ")"
NUMBER: /[0-9]+/
"""


@pytest.mark.parametrize(
    ("source", "good", "bad"),
    [
        (SQL_GBNF, ["SELECT col_1  from table_2  where col_2 = 1 "], ["SELECT col_3 "]),
        (SQL_LARK, ["SELECT a,b_2 FROM t"], ["SELECT a, b FROM t", "SELECT a FROM "]),
        (SPREAD, ['"a|b","c"', "12,345", "é\n世"], ["1234", '"#"', "é\nx", ""]),
        (ARITHMETIC, ["1+(2*3)-4", "7"], ["1+", "(1", "a"]),
        ('%llguidance {}\nstart: "a" B\nB: "b"+', ["abb"], ["a"]),
        ("root::=[a-c]+", ["abc"], ["d", ""]),
    ],
    ids=["sql gbnf", "sql lark", "spread", "arithmetic", "llguidance", "tight"],
)
def test_both_notations(masks, source: str, good: list[str], bad: list[str]) -> None:
    tree = {"kind": "lark", "source": source}
    for text in good:
        assert masks.accepts(tree, text), text
    for text in bad:
        assert not masks.accepts(tree, text), text


@pytest.mark.parametrize(
    ("source", "line", "why"),
    [
        ('root ::= "a"\n\nroot2 ::= ("b"', 3, ""),
        ('root ::= "a"\nb ::= missing-rule', 2, "missing-rule"),
        ('root ::= "a" {2,x}', 1, ""),
        ('a ::= "b"', None, "root"),
        ('start: x\nx: "a"\n  yy', 3, ""),
        ('start: x\nx: nothing_here "a"', 2, "nothing_here"),
        ("start: A\nA: /([/", 2, "regex"),
        ('begin: "a"', None, "start"),
        ("just text", None, "start"),
        ("   \n", None, "empty"),
    ],
)
def test_errors_name_the_line(masks, source: str, line: int | None, why: str) -> None:
    with pytest.raises(ConstraintError) as caught:
        masks.start({"kind": "lark", "source": source})
    error = caught.value
    assert error.code == "invalid_grammar"
    assert why in error.message
    assert (f" line {line}: " in error.message) is (line is not None), error.message
    assert len(error.message) < 400


@pytest.mark.parametrize("pattern", ["x", r"\s*,", "[ \\n]*|a", "[ -~]?"])
def test_white_space_must_be_white(masks, pattern: str) -> None:
    tree = {"kind": "json", "schema": True, "whitespace_pattern": pattern}
    with pytest.raises(ConstraintError, match="white space"):
        masks.start(tree)


@pytest.mark.parametrize(
    "pattern", [r"[ \n]?", r"[ \t\r\n]{0,3}", " *", r"(?: |\n)*", r"\s?", r"[\s]*"]
)
def test_white_space_that_is_white(masks, pattern: str) -> None:
    tree = {"kind": "json", "schema": {"type": "array"}, "whitespace_pattern": pattern}
    assert masks.accepts(tree, "[ 1, 2]")
    assert masks.accepts(tree, "[1,2]")
