"""What a format's masks let through, its parser must parse back to the same calls. Random walks
through the masks of every format: a model that draws its next token from the mask at random, over
many tool sets, tool choices and reasoning states. What it wrote is read a second time by plain
regular expressions and `json`, which share nothing with the parser, and the two must agree.

    python benchmarks/format_walks.py [--walks 10000] [--format hermes] [--case 17]
"""

from __future__ import annotations

import argparse
import codecs
import json
import random
import sys
import time
from typing import Any

import jsonschema
import numpy as np
from format_reading import CONTENT, POOL, Case, Said, read_again

from formgate.constrain.compiler import GrammarCompiler
from formgate.constrain.masks.blueprint import Blueprint
from formgate.constrain.masks.end_search import EndSearch
from formgate.constrain.masks.vocabulary import Vocabulary
from formgate.parsers.families.registry import FORMATS, REASONING
from formgate.parsers.grammar import answer_grammar
from formgate.parsers.stream import OutputParser
from formgate.parsers.text.events import (
    ContentDelta,
    Piece,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallStart,
)
from formgate.parsers.tree.nodes import json_value

EOS = 256
MERGES = [
    *(b'{"', b'": "', b'", "', b'"}', b"}}", b"}]", b"[{", b"}\n", b"</", b"\n\n", b", ", b"; "),
    *(b"name", b'"name": "', b"tool", b"_call>", b"think>", b"='", b"')", b"\\u", b"\\n", b'\\"'),
    *("北京".encode(), "🙂".encode()[:2], b"get", b"_weather", b"```", b"functions.", b"()]"),
]
# Of a whole answer: almost those of a call without a marker, by itself or behind a thought.
BEGINNINGS = [
    '[{"type": "x", "name": "get", "arguments": {"q": 1}}]',
    '[{"name": "g\\u0065t", "arguments": {"q": 1}}]',
    '{"type": "x", "name": "get", "parameters": {"q": 1}, "arguments": {"q": 1}}',
    '{"n\\u0061me": "get", "parameters": {"q": 1}, "arguments": {"q": 1}}',
    '{"name": "g\\u0065t", "parameters": {"q": 1}, "arguments": {"q": 1}}',
    '{"parameters": {"q": 1}, "name": "get", "arguments": {"q": 1}}',
    '<think>x</think>{"name": "get", "parameters": {"q": 1}}',
    '[THINK]x[/THINK]{"name": "get", "parameters": {"q": 1}}',
    '<think>x</think>[{"name": "get", "arguments": {"q": 1}}]',
    "[THINK]x[/THINK][get(q=1)]",
    "[THINK]x<tool_call>[/THINK]<tool_call>",
]
MAX_TOKENS = 250  # of a walk; from there on it takes a short way to the end


class Walker:
    """Walks the masks of one request."""

    def __init__(self, case: Case) -> None:
        self.case = case
        ids = case.special_ids
        tokens = [bytes([i]) for i in range(256)] + [b"</s>", *[b""] * len(ids), *MERGES]
        for text, i in ids.items():
            tokens[i] = text.encode()
        special = frozenset([EOS, *ids.values()])
        self.tokens = tokens
        vocabulary = Vocabulary(tuple(tokens), special, (EOS,))
        self.size = len(tokens)
        self.texts = {i: text for text, i in ids.items()}
        self.compiler = GrammarCompiler(vocabulary, padded_vocab_size=self.size)
        self.tree = answer_grammar(
            FORMATS[case.format],
            REASONING[case.thinks] if case.thinks else None,
            tools=case.tools,
            tool_choice=case.choice,
            parallel=case.parallel,
            content=json_value(CONTENT) if case.structured else None,
            reasoning_state=case.state,
            special_ids=ids,
        )
        blueprint = self.compiler.blueprint(json.dumps({"tree": self.tree}))
        self.compiled = self.compiler.build(blueprint)
        ways = EndSearch(tokens, special, (EOS,), list)  # a byte is its own token
        self.ways = ways.with_endings(Blueprint.loads(blueprint).endings, ())
        wishes = [
            *("</think>", "[/THINK]", "<think>", "[THINK]", "</parameter>", "</arg_value>"),
            *('{"name": "get', "[get(", "<tool_cal", "\\ud83d\\ude42", "\\u00e9", "北京", "🙂"),
            *(marker.text for marker in sorted(FORMATS[case.format].markers())),
            *("[TOOL_CALLS]get{}", "<tool_call><function=get></function></tool_call>"),
            *(" to=functions.get", " to=functions.tree<"),
        ]
        self.wishes = [
            *(list(text.encode()) for text in wishes),
            *([[i] for i in ids.values()] * 3),
        ]
        self.likely = {EOS, *ids.values(), *b'"}])>/', *(257 + len(ids) + i for i in (3, 4, 5, 28))}

    def walk(self, rng: random.Random) -> list[int]:
        constraint: Any = self.compiled.start()
        row = np.zeros((self.size + 31) // 32, np.int32)
        drawn: list[int] = []
        wish = list(rng.choice(BEGINNINGS).encode()) if rng.random() < 0.05 else []
        while len(drawn) < MAX_TOKENS:
            constraint.fill_bitmask(row)
            bits = np.unpackbits(row.view(np.uint8), bitorder="little")
            allowed = np.flatnonzero(bits).tolist()
            assert allowed, "no token is allowed"
            if not wish and rng.random() < 0.08:
                wish = list(rng.choice(self.wishes))
            if wish and bits[wish[0]]:
                token = wish.pop(0)
            else:
                wish = []
                ends = [token for token in allowed if token in self.likely]
                token = rng.choice(ends if ends and rng.random() < 0.4 else allowed)
            if token == EOS:
                return drawn
            constraint.accept(token)
            drawn.append(token)
        if constraint.is_terminated():
            return drawn
        way = self.ways.to_end(constraint.copy())
        assert way, "no way to the end"
        return drawn + [token for token in way if token != EOS]

    def pieces(self, drawn: list[int]) -> list[list[Piece]]:
        """As a detokenizer gives them, token by token."""
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        batches = []
        for token in drawn:
            if token in self.texts:
                batches.append([Piece(self.texts[token], token)])
            elif text := decode(self.tokens[token]):
                batches.append([Piece(text)])
        return batches

    def parsed(self, batches: list[list[Piece]]) -> Said:
        case = self.case
        parser = OutputParser(
            FORMATS[case.format],
            REASONING[case.thinks] if case.thinks else None,
            tools_enabled=True,
            reasoning_state=case.state,
            special_ids=case.special_ids,
            tools=case.choice.allowed(case.tools),
            structured_content=case.structured,
        )
        said = Said()
        raw: list[list[str]] = []
        for delta in [d for batch in batches for d in parser.feed(batch)] + parser.finish():
            match delta:
                case ContentDelta(text):
                    said.content += text
                case ReasoningDelta(text):
                    said.reasoning += text
                case ToolCallStart(_, name, _):
                    raw.append([name, ""])
                case ToolCallArguments(index, text):
                    assert index == len(raw) - 1
                    raw[index][1] += text
        said.calls = [(name, strict(arguments)) for name, arguments in raw]
        return said


def strict(text: str) -> Any:
    """As a reader has it that refuses an object with a name twice."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs), f"a name comes twice: {pairs}"
        return dict(pairs)

    return json.loads(text, object_pairs_hook=members)


def check(case: Case, parsed: Said, text: str) -> None:
    again = read_again(case, text)
    assert parsed.calls == again.calls, f"calls: {parsed.calls} != {again.calls}"
    assert parsed.reasoning == again.reasoning, (
        f"reasoning: {parsed.reasoning!r} != {again.reasoning!r}"
    )
    content = parsed.content
    for marker, token_id in case.special_ids.items():
        again.content = again.content.replace(chr(0x10F000 + token_id), marker)
    assert content == again.content, f"content: {content!r} != {again.content!r}"
    names = [name for name, _ in parsed.calls]
    for name, arguments in parsed.calls:
        assert name in {tool.name for tool in case.choice.allowed(case.tools)}, f"unknown {name}"
        jsonschema.validate(arguments, POOL[name])
    mode = case.choice.mode
    assert names or mode == "auto", "no call"
    assert len(names) <= 1 or (case.parallel and mode != "named"), "more than one call"
    assert not (names and content) or (mode == "auto" and not case.structured), "content"
    if case.structured and not names:
        jsonschema.validate(strict(content), CONTENT)


def walks(name: str, count: int, first_case: int = 0, per_case: int = 10) -> tuple[int, list[str]]:
    """How many calls were made, and what went wrong."""
    calls, failures = 0, []
    for number in range(first_case, first_case + -(-count // per_case)):
        rng = random.Random(f"{name}/{number}")
        case = Case.drawn(name, rng)
        walker = Walker(case)
        for _ in range(per_case):
            text = ""
            try:
                batches = walker.pieces(walker.walk(rng))
                text = "".join(
                    piece.text if piece.special_id is None else case.mark(piece.text)
                    for batch in batches
                    for piece in batch
                )
                parsed = walker.parsed(batches)
                check(case, parsed, text)
                calls += len(parsed.calls)
            except Exception as error:
                shown = text
                for marker, token_id in case.special_ids.items():
                    shown = shown.replace(chr(0x10F000 + token_id), f"«{marker}»")
                kind = type(error).__name__
                failures.append(
                    f"{name} case {number} ({case.choice.mode}, {case.thinks} {case.state}, "
                    f"structured={case.structured}): {kind}: {str(error)[:600]}\n    {shown!r}"
                )
    return calls, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--walks", type=int, default=10_000, help="per format")
    parser.add_argument("--format", choices=sorted(FORMATS), action="append")
    parser.add_argument("--case", type=int, help="one case only, by its number")
    options = parser.parse_args()
    wrong = 0
    for name in options.format or FORMATS:
        started = time.monotonic()
        count, first = (10, options.case) if options.case is not None else (options.walks, 0)
        calls, failures = walks(name, count, first)
        wrong += len(failures)
        seconds = time.monotonic() - started
        print(f"{name:16} {count} walks, {calls} calls, {len(failures)} wrong, {seconds:.0f} s")
        for failure in failures[:5]:
            print(failure)
        sys.stdout.flush()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
