"""Translates a Lark grammar to one for the content of a JSON string, with JSON's shortest escapes.

All escapes begin with a backslash, and llguidance's lexer does not backtrack: after a backslash, a
lexeme can no longer end before it. So a terminal with escapes becomes a rule whose lexemes are
either text without escapes or one escape. Terminals without escapes remain terminals.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from formgate.constrain.errors import ConstraintError
from formgate.constrain.notations.lark_grammar import check_lark
from formgate.constrain.notations.lark_terminals import escapes_in, terminal_lark
from formgate.constrain.regex.regex_syntax import parse
from formgate.constrain.regex.regex_tree import Alt, Chars, Regex, RegexError, Repeat, Seq, asserts
from formgate.constrain.regex.rust_regex import as_ecma

_LEXEME = re.compile(
    r"""
      (?P<space>      [ \t]+ | (?:\#|//)[^\n]* )
    | (?P<newline>    \r?\n )
    | (?P<import>     %import\b[^\n]* )
    | (?P<string>     "(?:\\.|[^"\\\n])*"i? )
    | (?P<regex>      /(?:\\.|[^/\\\n])+/[imslux]* )
    | (?P<keyword>    %[a-z]+ )
    | (?P<special>    <[^<>\s]+> )
    | (?P<reference>  @[A-Za-z0-9_\-]* )
    | (?P<arrow>      -> )
    | (?P<range>      \.\. )
    | (?P<name>       [!?_]*[A-Za-z][A-Za-z0-9_\-]* )
    | (?P<number>     [+-]?[0-9]+ )
    | (?P<parametric> :: )
    | (?P<mark>       [:|()\[\]{}~&+*?,=.] )
    """,
    re.VERBOSE,
)
_DECIMAL = r"([0-9]+\.[0-9]*|\.[0-9]+)"
_FLOAT = rf"({_DECIMAL}([eE](\+|-)?[0-9]+)?|[0-9]+[eE](\+|-)?[0-9]+)"
# The terminals of Lark's `common` library, as llguidance defines them.
_COMMON = {
    "DIGIT": "[0-9]",
    "HEXDIGIT": "[a-fA-F0-9]",
    "INT": "[0-9]+",
    "SIGNED_INT": r"(\+|-)?[0-9]+",
    "DECIMAL": _DECIMAL,
    "_EXP": r"[eE](\+|-)?[0-9]+",
    "FLOAT": _FLOAT,
    "SIGNED_FLOAT": rf"(\+|-)?{_FLOAT}",
    "NUMBER": rf"([0-9]+|{_FLOAT})",
    "SIGNED_NUMBER": rf"(\+|-)?([0-9]+|{_FLOAT})",
    "ESCAPED_STRING": r'"([^"\\]|\\.)*"',
    "LCASE_LETTER": "[a-z]",
    "UCASE_LETTER": "[A-Z]",
    "LETTER": "[A-Za-z]",
    "WORD": "[A-Za-z]+",
    "CNAME": "[_A-Za-z][_A-Za-z0-9]*",
    "WS_INLINE": r"[ \t]+",
    "WS": r"[ \t\f\r\n]+",
    "CR": r"\r",
    "LF": r"\n",
    "NEWLINE": r"(\r?\n)+",
    "SH_COMMENT": r"#[^\n]*",
    "CPP_COMMENT": r"//[^\n]*",
    "C_COMMENT": r"/\*[^*]*\*+(?:[^/*][^*]*\*+)*/",
    "SQL_COMMENT": r"--[^\n]*",
}
_IMPORT = re.compile(
    r"%import\s+common\s*(?:\.\s*(?P<one>\w+)\s*(?:->\s*(?P<alias>\w+))?"
    r"|\(\s*(?P<many>[\w\s,]+)\))\s*(?:(?:\#|//).*)?"
)


def lark_in_json(source: str) -> str:
    """A grammar for the content of a JSON string whose value matches `source`. Raises
    ConstraintError for an invalid grammar, and for features that a string does not support.
    """
    check_lark(source)
    return _InJsonWriter(list(_lexemes(source))).written()


@dataclass(frozen=True, slots=True)
class _Lexeme:
    kind: str
    text: str
    line: int


def _lexemes(source: str) -> Iterator[_Lexeme]:
    at, line = 0, 1
    while at < len(source):
        found = _LEXEME.match(source, at)
        if found is None:
            raise _unsupported(f"{source[at : at + 20]!r}", line)
        kind = found.lastgroup
        assert kind is not None
        if kind != "space":
            yield _Lexeme(kind, found[0], line)
        line += found[0].count("\n")
        at = found.end()
    yield _Lexeme("newline", "\n", line)


class _InJsonWriter:
    def __init__(self, lexemes: Sequence[_Lexeme]) -> None:
        self._statements = _statements(lexemes)
        self._terminals: dict[str, Regex | list[_Lexeme]] = {}

    def written(self) -> str:
        rules = []
        for statement in self._statements:
            first = statement[0]
            if first.kind == "import":
                self._terminals |= {name: _read(tree, first) for name, tree in _imported(first)}
            elif first.kind == "name" and first.text.lstrip("_")[0].isupper():
                self._terminals[first.text] = _body(statement)
            else:
                rules.append(statement)
        lines = ["".join(self._rule(statement)) for statement in rules]
        for name in self._terminals:
            tree = self._terminal(name)
            if escapes_in(tree):
                lines.append(f"{_rule_name(name)}: {terminal_lark(tree)}")
            else:
                lines.append(f"{name}: {terminal_lark(tree)}")
        return "\n".join([*lines, ""])

    def _rule(self, statement: Sequence[_Lexeme]) -> Iterator[str]:
        if statement[0].text == "%ignore":
            yield f"%ignore {self._ignored(statement)}"
            return
        if statement[0].kind == "keyword":
            raise _unsupported(statement[0].text, statement[0].line)
        body = _body(statement)
        yield statement[0].text + ": "
        at = 0
        while at < len(body):
            lexeme, following = body[at], body[at + 1].kind if at + 1 < len(body) else ""
            at += 1
            match lexeme.kind:
                case "string" if following == "range":
                    yield terminal_lark(_range(lexeme, body[at + 1]))
                    at += 2
                case "string" | "regex":
                    yield terminal_lark(_tree(lexeme))
                case "name" if lexeme.text in self._terminals:
                    split = escapes_in(self._terminal(lexeme.text))
                    yield _rule_name(lexeme.text) if split else lexeme.text
                case "arrow":
                    at += 1  # an alias names a branch of the syntax tree, which is not built
                case "special" | "reference" | "parametric" | "keyword":
                    raise _unsupported(lexeme.text, lexeme.line)
                case _:
                    yield lexeme.text
            yield " "

    def _ignored(self, statement: Sequence[_Lexeme]) -> str:
        """The ignored terminal, one character at a time: ignored text may repeat, so the language
        is the same.
        """
        tree = self._parsed(statement[1:])
        chars = tree
        while isinstance(chars, Repeat) and chars.least <= 1 and chars.most is None:
            chars = chars.part
        if not escapes_in(tree):
            return terminal_lark(tree)
        if not isinstance(chars, Chars):
            raise _unsupported("%ignore of more than characters", statement[0].line)
        return terminal_lark(chars)

    def _terminal(self, name: str) -> Regex:
        found = self._terminals[name]
        if isinstance(found, list):
            found = self._terminals[name] = self._parsed(found)
        return found

    def _parsed(self, lexemes: Sequence[_Lexeme]) -> Regex:
        return _Terminal(lexemes, self._terminal).tree()


class _Terminal:
    """The expression of a terminal as one tree."""

    def __init__(self, lexemes: Sequence[_Lexeme], terminal: Callable[[str], Regex]) -> None:
        self._lexemes = [lexeme for lexeme in lexemes if lexeme.kind != "newline"]
        self._at = 0
        self._terminal = terminal

    def tree(self) -> Regex:
        options = [self._sequence()]
        while self._eat("|"):
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Alt(tuple(options))

    def _peek(self) -> str:
        return self._lexemes[self._at].text if self._at < len(self._lexemes) else ""

    def _eat(self, text: str) -> bool:
        found = self._peek() == text
        self._at += found
        return found

    def _sequence(self) -> Regex:
        parts: list[Regex] = []
        while self._peek() not in ("", "|", ")", "]"):
            part = self._atom()
            if (times := self._times()) is not None:
                part = Repeat(part, *times)
            parts.append(part)
        return parts[0] if len(parts) == 1 else Seq(tuple(parts))

    def _atom(self) -> Regex:
        lexeme = self._lexemes[self._at]
        self._at += 1
        if lexeme.text in ("(", "["):
            tree = self.tree()
            self._at += 1
            return Repeat(tree, 0, 1) if lexeme.text == "[" else tree
        if lexeme.kind == "string" and self._eat(".."):
            self._at += 1
            return _range(lexeme, self._lexemes[self._at - 1])
        if lexeme.kind in ("string", "regex"):
            return _tree(lexeme)
        if lexeme.kind == "name":
            return self._terminal(lexeme.text)
        raise _unsupported(lexeme.text, lexeme.line)

    def _times(self) -> tuple[int, int | None] | None:
        for mark, times in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._eat(mark):
                return times
        if self._eat("~"):
            low = self._number()
            return low, self._number() if self._eat("..") else low
        if not self._eat("{"):
            return None
        low = 0 if self._peek() == "," else self._number()
        high: int | None = low
        if self._eat(","):
            high = None if self._peek() == "}" else self._number()
        self._at += 1
        return low, high

    def _number(self) -> int:
        lexeme = self._lexemes[self._at]
        self._at += 1
        if lexeme.kind != "number":
            raise _unsupported(f"~{lexeme.text}", lexeme.line)
        return int(lexeme.text)


def _statements(lexemes: Sequence[_Lexeme]) -> list[list[_Lexeme]]:
    """Rules, terminals and directives. One continues on a next line that begins with `|`."""
    lines: list[list[_Lexeme]] = [[]]
    for lexeme in lexemes:
        if lexeme.kind == "newline":
            lines.append([])
        else:
            lines[-1].append(lexeme)
    statements: list[list[_Lexeme]] = []
    depth = 0
    for line in filter(None, lines):
        if statements and (depth or line[0].text == "|"):
            statements[-1] += line
        else:
            statements.append(line)
        depth += sum((each.text in "([{") - (each.text in ")]}") for each in line)
    return statements


def _body(statement: Sequence[_Lexeme]) -> list[_Lexeme]:
    """The lexemes after the colon. Priorities and captures are dropped: llguidance ignores the
    former, formgate the latter.
    """
    for at, lexeme in enumerate(statement):
        if lexeme.text == ":":
            return list(statement[at + 1 :])
        if lexeme.kind == "name" and at and lexeme.text != "capture":
            raise _unsupported(f"the attribute {lexeme.text}", lexeme.line)
    raise _unsupported(statement[0].text, statement[0].line)


def _rule_name(terminal: str) -> str:
    return "escaped-" + terminal.lower()


def _text(lexeme: _Lexeme) -> str:
    text: str = json.loads(lexeme.text.removesuffix("i"))
    return text


def _range(first: _Lexeme, last: _Lexeme) -> Regex:
    return Chars(((ord(_text(first)), ord(_text(last))),))


def _imported(lexeme: _Lexeme) -> Iterator[tuple[str, str]]:
    """The names that an import defines, each with its pattern."""
    found = _IMPORT.fullmatch(lexeme.text)
    if found is None:
        raise _unsupported(lexeme.text, lexeme.line)
    one, alias = found["one"], found["alias"]
    names = [one] if one else [name.strip() for name in found["many"].split(",")]
    for name in filter(None, names):
        if name not in _COMMON:
            raise _unsupported(f"common.{name}", lexeme.line)
        yield alias or name, _COMMON[name]


def _tree(lexeme: _Lexeme) -> Regex:
    if lexeme.kind == "regex":
        pattern, _, flags = lexeme.text[1:].rpartition("/")
        flags = flags.replace("u", "")
        return _read(f"(?{flags}:{pattern})" if flags else pattern, lexeme)
    text = _text(lexeme)
    if lexeme.text.endswith("i"):
        return _read(f"(?i:{re.escape(text)})", lexeme)
    return Seq(tuple(Chars(((ord(char), ord(char)),)) for char in text))


def _read(pattern: str, lexeme: _Lexeme) -> Regex:
    try:
        tree = parse(as_ecma(pattern))
    except RegexError as error:
        raise _unsupported(f"{lexeme.text:.80} has {error}", lexeme.line) from None
    if asserts(tree):
        raise _unsupported(f"an anchor in {lexeme.text:.80}", lexeme.line)
    return tree


def _unsupported(what: str, line: int) -> ConstraintError:
    return ConstraintError(
        f"The grammar cannot be enforced in a tool's input: line {line}: {what:.120} is not "
        "supported there.",
        code="invalid_grammar",
    )
