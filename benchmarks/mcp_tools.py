"""Tools of real MCP servers under random weights: each server's whole set under "required", and
each tool named. A model that draws from the mask at random, and likes what ends a text, writes
arguments; they must be valid, as `jsonschema` sees them, and no object may have a name twice.

    python benchmarks/mcp_tools.py TOOLS.jsonl[.gz] [--format hermes] [--walks 2] [--seconds 300]

Each line of the file is one server: {"server": ..., "tools": [{"name", "inputSchema"}, ...]}.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from format_walks import strict
from jsonschema.validators import validator_for

from formgate import embedded
from formgate.constrain.compiler import GrammarCompiler
from formgate.constrain.errors import ConstraintError
from formgate.constrain.masks.blueprint import Blueprint
from formgate.constrain.masks.end_search import EndSearch
from formgate.constrain.masks.vocabulary import Vocabulary
from formgate.gateway.model.tokenizer_folder import load_tokenizer
from formgate.parsers.families.registry import FORMATS
from formgate.parsers.formats.format import Tool, ToolChoice, UnsupportedArguments
from formgate.parsers.grammar import answer_grammar
from formgate.parsers.stream import OutputParser
from formgate.parsers.text.events import Piece, ToolCallArguments, ToolCallStart

MOST_TOKENS = 400  # of an answer; from there on it takes a short way to the end
ENDS = frozenset((b'"', b'"}', b'"]', b"}", b"]", b"}}", b'",', b"}]", b"0"))


class Walker:
    def __init__(self, format_name: str) -> None:
        tokenizer = load_tokenizer(embedded.path())
        self.format = FORMATS[format_name]
        self.special_ids = tokenizer.special_ids
        special = frozenset(tokenizer.special_ids.values())
        vocabulary = Vocabulary(tuple(tokenizer.token_bytes), special, tuple(tokenizer.eos_ids))
        self.tokens = vocabulary.token_bytes
        self.eos_ids = vocabulary.eos_ids
        self.texts = {token_id: text for text, token_id in tokenizer.special_ids.items()}
        self.compiler = GrammarCompiler(vocabulary, padded_vocab_size=len(self.tokens))
        self.ends = {i for i, token in enumerate(self.tokens) if token in ENDS} | {*self.eos_ids}
        self.ways = EndSearch(self.tokens, special, self.eos_ids, tokenizer.encode_bytes)

    def compiled(self, tools: list[Tool], choice: ToolChoice) -> tuple[Any, EndSearch]:
        """And the ways to its end. Raises ConstraintError, UnsupportedArguments."""
        tree = answer_grammar(
            self.format,
            None,
            tools=tools,
            tool_choice=choice,
            parallel=False,
            content=None,
            reasoning_state="none",
            special_ids=self.special_ids,
        )
        blueprint = self.compiler.blueprint(json.dumps({"tree": tree}))
        ways = self.ways.with_endings(Blueprint.loads(blueprint).endings, ())
        return self.compiler.build(blueprint), ways

    def calls(
        self, compiled: tuple[Any, EndSearch], tools: list[Tool], r: random.Random
    ) -> list[tuple[str, str]] | None:
        """Names and arguments of a random answer; None if it found no end."""
        constraint = compiled[0].start()
        row = np.zeros(-(-len(self.tokens) // 32), np.int32)
        drawn: list[int] = []
        while not constraint.is_terminated() and len(drawn) < MOST_TOKENS:
            for token_id in constraint.forced_tokens():
                constraint.accept(token_id)
                drawn.append(token_id)
            if constraint.is_terminated():
                break
            constraint.fill_bitmask(row)
            allowed = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist()
            assert allowed, "no token is allowed"
            ends = [token_id for token_id in allowed if token_id in self.ends]
            drawn.append(r.choice(ends if ends and r.random() < 0.5 else allowed))
            constraint.accept(drawn[-1])
        if not constraint.is_terminated():
            way = compiled[1].to_end(constraint.copy())
            if not way:
                return None
            drawn += way
        return self._read(drawn, tools)

    def _read(self, drawn: list[int], tools: list[Tool]) -> list[tuple[str, str]]:
        parser = OutputParser(
            self.format,
            None,
            tools_enabled=True,
            reasoning_state="none",
            special_ids=self.special_ids,
            tools=tools,
            structured_content=False,
        )
        calls: list[list[str]] = []
        pieces: list[Piece] = []
        text = b""
        for token_id in drawn:
            if token_id in self.eos_ids:
                break
            if token_id in self.texts:
                pieces += [Piece(text.decode()), Piece(self.texts[token_id], token_id)]
                text = b""
            else:
                text += self.tokens[token_id]
        pieces.append(Piece(text.decode()))
        for delta in [*parser.feed(pieces), *parser.finish()]:
            match delta:
                case ToolCallStart(_, name, _):
                    calls.append([name, ""])
                case ToolCallArguments(_, more):
                    calls[-1][1] += more
        return [(name, arguments) for name, arguments in calls]


def servers(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt") as lines:
        for line in lines:
            server = json.loads(line)
            yield (
                server["server"],
                {
                    tool["name"]: tool.get("inputSchema") or {"type": "object"}
                    for tool in server["tools"]
                },
            )


def run(path: Path, format_name: str, walks: int, seconds: float) -> tuple[Counter[str], list[str]]:
    walker, seen, failures = Walker(format_name), Counter[str](), list[str]()
    until = time.monotonic() + seconds
    requests = []
    for server, schemas in servers(path):
        tools = [Tool(name, schema, "") for name, schema in schemas.items()]
        requests.append((server, schemas, tools, ToolChoice("required")))
        requests += [(server, schemas, [tool], ToolChoice.named(tool.name)) for tool in tools]
    random.Random(1).shuffle(requests)  # a run that is cut short is a sample
    for server, schemas, tools, choice in requests:
        if time.monotonic() > until:
            seen["not reached"] += 1
            continue
        seen["requests"] += 1
        try:
            compiled = walker.compiled(tools, choice)
        except (ConstraintError, UnsupportedArguments) as error:
            seen["refused"] += 1
            failures.append(f"{server} {choice.mode} {tools[0].name}: refused: {error}")
            continue
        for number in range(walks if choice.mode == "named" else 4 * walks):
            seen["answers"] += 1
            r = random.Random(f"{server} {tools[0].name} {number}")
            try:
                calls = walker.calls(compiled, tools, r)
                if calls is None:
                    seen["cut"] += 1
                else:
                    check(calls, schemas)
            except Exception as error:
                seen["invalid"] += 1
                failures.append(f"{server} {choice.mode} {tools[0].name} {number}: {error!r:.300}")
    return seen, failures


def check(calls: list[tuple[str, str]], schemas: dict[str, Any]) -> None:
    assert calls, "no call"
    for name, arguments in calls:
        value = strict(arguments)
        validator = validator_for(schemas[name])(schemas[name])
        error = next(validator.iter_errors(value), None)
        assert error is None, f"{name}: {error.message}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("tools", type=Path)
    parser.add_argument("--format", default="hermes", choices=FORMATS)
    parser.add_argument("--walks", type=int, default=2, help="answers of each named tool")
    parser.add_argument("--seconds", type=float, default=300)
    args = parser.parse_args()
    started = time.monotonic()
    seen, failures = run(args.tools, args.format, args.walks, args.seconds)
    for failure in failures:
        print(failure)
    shown = {
        name: seen[name]
        for name in ("requests", "not reached", "answers", "cut", "refused", "invalid")
    }
    print(json.dumps(shown | {"seconds": round(time.monotonic() - started)}))


if __name__ == "__main__":
    main()
