"""Tools whose text is held to a grammar, in every format: what the mask lets through, the parser
reads back, and llguidance accepts the text itself.
"""

from __future__ import annotations

import json
import random
import zlib

import pytest
from llguidance import LLMatcher

from formgate.constrain.answer_tree import to_lark
from formgate.constrain.grammar.shortest import byte_tokenizer
from formgate.parsers.families.registry import FORMATS
from formgate.parsers.formats.format import Tool, ToolChoice
from formgate.parsers.grammar import answer_grammar
from formgate.parsers.stream import OutputParser
from formgate.parsers.text.events import Piece, ToolCallArguments, ToolCallStart
from formgate.parsers.tree import nodes

# Texts that could be taken for the ends of every family's arguments.
SOURCE = r"""
start: line{1,3} "end"
line: /([a-c"\\'<>\/\[\]{}]|é){1,6}/ "=" ("</parameter>" | "</arg_value>" | "\"}}]" | "')")? LF
%import common.LF
"""
SCHEMA = {
    "type": "object",
    "properties": {"input": {"type": "string", "minLength": 0}},
    "required": ["input"],
    "additionalProperties": False,
}
TOOL = Tool("apply_patch", SCHEMA, "", nodes.lark(SOURCE, in_json=True))
OTHER = Tool("list", {"type": "object", "properties": {}, "additionalProperties": False})
MOST = 600


def matcher_of(source: str) -> LLMatcher:
    matcher = LLMatcher(byte_tokenizer(), LLMatcher.grammar_from_lark(source), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def walk(matcher: LLMatcher, rng: random.Random) -> bytes | None:
    text = bytearray()
    matcher.reset()
    while len(text) < MOST:
        if matcher.is_accepting() and rng.random() < 0.8:
            return bytes(text)
        mask = matcher.compute_bitmask()
        allowed = [byte for byte in range(256) if mask[byte >> 3] >> (byte & 7) & 1]
        if not allowed:
            return bytes(text)
        byte = rng.choice(allowed)
        assert matcher.consume_token(byte)
        text.append(byte)
    return None


@pytest.mark.parametrize("name", FORMATS)
def test_a_text_that_a_grammar_holds_comes_back_whole(name: str) -> None:
    tree = answer_grammar(
        FORMATS[name], None,
        tools=[TOOL, OTHER],
        tool_choice=ToolChoice.named("apply_patch"),
        parallel=False,
        content=None,
        reasoning_state="none",
        special_ids={},
    )  # fmt: skip
    assert tree is not None
    masks = matcher_of(to_lark(tree, [bytes([i]) for i in range(256)], native=True).source)
    raw = matcher_of(SOURCE)
    rng = random.Random(zlib.crc32(name.encode()))
    answers = [text.decode() for _ in range(40) if (text := walk(masks, rng)) is not None]
    assert len(answers) > 10
    for answer in answers:
        parser = OutputParser(
            FORMATS[name], None, tools_enabled=True, reasoning_state="none", special_ids={},
            tools=[TOOL, OTHER],
        )  # fmt: skip
        size = rng.choice((1, 7, MOST))
        deltas = []
        for at in range(0, len(answer), size):
            deltas += parser.feed([Piece(answer[at : at + size])])
        deltas += parser.finish()
        names = [delta.name for delta in deltas if isinstance(delta, ToolCallStart)]
        arguments = "".join(d.text for d in deltas if isinstance(d, ToolCallArguments))
        assert names == ["apply_patch"], answer
        value = json.loads(arguments)
        assert value.keys() == {"input"}
        raw.reset()
        text = list(value["input"].encode())
        assert raw.try_consume_tokens(text) == len(text), answer
        assert raw.is_accepting(), answer
