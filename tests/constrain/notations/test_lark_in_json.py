"""Lark grammars inside JSON strings: llguidance itself, on the raw text, is the oracle."""

from __future__ import annotations

import json
import random

import pytest
from llguidance import LLMatcher

from formgate.constrain.answer_tree import to_lark
from formgate.constrain.errors import ConstraintError
from formgate.constrain.grammar.shortest import byte_tokenizer
from formgate.constrain.notations.lark_in_json import lark_in_json

APPLY_PATCH = """
start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?

hunk: add_hunk | delete_hunk | update_hunk
add_hunk: "*** Add File: " filename LF add_line+
delete_hunk: "*** Delete File: " filename LF
update_hunk: "*** Update File: " filename LF change_move? change?

filename: /(.+)/
add_line: "+" /(.*)/ LF -> line

change_move: "*** Move to: " filename LF
change: (change_context | change_line)+ eof_line?
change_context: ("@@" | "@@ " /(.+)/) LF
change_line: ("+" | "-" | " ") /(.*)/ LF
eof_line: "*** End of File" LF

%import common.LF
"""

GRAMMARS = {
    "apply_patch": APPLY_PATCH,
    "quotes and backslashes": r"""
start: (STRING | ESCAPE | "'\"\n" | "\u0001\u007f")+
STRING: /"([^"\\]|\\.)*"/
ESCAPE: /\\[nt"\\]/
""",
    "arithmetic": """
?start: expr
?expr: term (("+" | "-") term)*
?term: atom (("*" | "/") atom)* -> product
?atom: NUMBER | CNAME | "(" expr ")" | "-" atom
%import common (NUMBER, CNAME)
%import common.WS_INLINE
%ignore WS_INLINE
""",
    "sql": """
start: SELECT WS column ("," WS column)* WS "FROM"i WS NAME [WS "LIMIT" WS INT] ";"?
SELECT: "find"i
column: NAME | ESCAPED_STRING
NAME: ("a".."z" | "_") /[a-z0-9_]/ ~ 0..3
%import common.WS
%import common.INT
%import common.ESCAPED_STRING -> ESCAPED_STRING
""",
    "controls": r"""
start: /[\x00-\x1f"\\\/é\u{1F600}-\u{1F602}]{1,5}/ ":" (TAB | /\s/ | /\d\D/ | /[^\w"]/)
TAB: "\t" | /[\r\n]/
""",
    "recursion": """
start: value // a comment
# another
value: "[" [value ("," value)*] "]" | "{" "}" | FLAG
    | LETTER{2}
FLAG: "yes" | "no"
%import common.LETTER
""",
}


def raw_matcher(source: str) -> LLMatcher:
    matcher = LLMatcher(byte_tokenizer(), LLMatcher.grammar_from_lark(source), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def call_matcher(source: str) -> LLMatcher:
    tree = {
        "kind": "seq",
        "items": [
            {"kind": "text", "value": '{"input": "'},
            {"kind": "lark", "source": source, "in_json": True},
            {"kind": "text", "value": '"}'},
        ],
    }
    return raw_matcher(to_lark(tree, [bytes([i]) for i in range(256)], native=True).source)


def walk(matcher: LLMatcher, rng: random.Random, most: int = 120) -> bytes | None:
    """A random text that the matcher lets through; None if it does not end within `most` bytes."""
    text = bytearray()
    matcher.reset()
    while len(text) < most:
        if matcher.is_accepting() and rng.random() < 0.3:
            break
        mask = matcher.compute_bitmask()
        allowed = [byte for byte in range(256) if mask[byte >> 3] >> (byte & 7) & 1]
        if not allowed:
            break
        # Structure is rare among all bytes, so it is preferred.
        marks = [byte for byte in allowed if byte in b'"\\\n*+-@ }uE']
        byte = rng.choice(marks if marks and rng.random() < 0.6 else allowed)
        assert matcher.consume_token(byte)
        text.append(byte)
    return bytes(text) if matcher.is_accepting() else None


def takes(matcher: LLMatcher, text: bytes) -> bool:
    matcher.reset()
    return matcher.try_consume_tokens(list(text)) == len(text) and matcher.is_accepting()


def in_call(text: str) -> bytes:
    return json.dumps({"input": text}, ensure_ascii=False).encode()


@pytest.mark.parametrize("name", GRAMMARS)
def test_what_the_mask_lets_through_is_a_text_of_the_grammar(name: str) -> None:
    raw, call = raw_matcher(GRAMMARS[name]), call_matcher(GRAMMARS[name])
    rng = random.Random(name)
    texts = [text for _ in range(60) if (text := walk(call, rng)) is not None]
    assert texts
    for text in texts:
        value = json.loads(text)["input"]
        assert takes(raw, value.encode()), value
        assert in_call(value) == text, "there is one spelling"


@pytest.mark.parametrize("name", GRAMMARS)
def test_every_text_of_the_grammar_can_be_written(name: str) -> None:
    raw, call = raw_matcher(GRAMMARS[name]), call_matcher(GRAMMARS[name])
    rng = random.Random(name)
    texts = [text for _ in range(60) if (text := walk(raw, rng)) is not None]
    assert texts
    for text in texts:
        assert takes(call, in_call(text.decode())), text


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("*** Begin Patch\n*** Delete File: a.py\n*** End Patch\n", True),
        ("*** Begin Patch\n*** Delete File: a.py\n*** End Patch", True),
        ('*** Begin Patch\n*** Add File: "é"\n+x = "\\n"\r\n+\n*** End Patch', True),
        ("*** Begin Patch\n*** Update File: a\n@@\n- \u2028\n+b\n*** End Patch", True),
        ("*** Begin Patch\n*** End Patch", False),
        ("*** Begin Patch\n*** Delete File: \n*** End Patch", False),
        ("*** Begin Patch\n*** Add File: a\nx\n*** End Patch", False),
    ],
)
def test_apply_patch(text: str, fits: bool) -> None:
    assert takes(raw_matcher(APPLY_PATCH), text.encode()) == fits
    assert takes(call_matcher(APPLY_PATCH), in_call(text)) == fits


@pytest.mark.parametrize(
    "source",
    [
        "start: <|eot|>",
        "start: a\na: %json {}",
        'start: %regex {"substring_chars": "abc"}',
        'start: %lark { start: "a" }',
        'start: a\na[max_tokens=3]: "a"',
        "start: /[a-z&&[^b]]/",
        r"start: /[\W]/",
        r"start: /\D/i",
        "start: A\nA: /(?s:.*)/ & ~B\nB: /x/",
        "start: a\na[lazy]: /.*b/",
        'start: a\na[suffix="b"]: /.*/',
        "start: /a/\n%ignore /#[^\\n]*/",
        "start: /a/m",
        "start: @other",
        "start: a b\n",
        "",
        "x: y",
    ],
)
def test_what_cannot_be_enforced_is_refused(source: str) -> None:
    with pytest.raises(ConstraintError):
        lark_in_json(source)
