"""Formats that are derived from chat templates: what the template writes comes back, however it is
cut, and what the grammar lets through is read back as the calls that it says.
"""

from __future__ import annotations

import importlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from formgate.gateway.model.chat_template import ChatTemplate
from formgate.gateway.model.templates.choosing import FormatChoice, choose_format
from formgate.gateway.model.templates.turns import TemplateTurns
from formgate.parsers.derivation.atoms import token_like
from formgate.parsers.derivation.check import check_format
from formgate.parsers.derivation.derive import derive_format
from formgate.parsers.derivation.samples import CHECKS, TOOLS, Call, NotWritten, WrittenTurn
from formgate.parsers.derivation.writing import written_calls
from formgate.parsers.formats.calls import JsonArguments, Name
from formgate.parsers.formats.format import Format, Tool, ToolChoice
from formgate.parsers.grammar import answer_grammar
from formgate.parsers.stream import OutputParser

HERE = Path(__file__).parent
TEXT = {"type": "string"}
CLOSED = {"type": "object", "additionalProperties": False}
ASKED = [
    Tool("get_weather", {**CLOSED, "properties": {"city": TEXT}, "required": ["city"]}),
    Tool("get", {**CLOSED, "properties": {}}),
    Tool(
        "edit",
        {
            **CLOSED,
            "properties": {
                "path": TEXT,
                "line": {"type": "integer", "minimum": 0},
                "mode": {"enum": ["fast", "slow"]},
                "on": {"type": "boolean"},
                "note": {"anyOf": [TEXT, {"type": "null"}]},
                "lines": {"type": "array", "items": {"type": "integer"}},
            },
            "required": ["path", "line"],
        },
    ),
]


VALIDATORS = {tool.name: jsonschema.Draft202012Validator(tool.schema) for tool in ASKED}


@pytest.fixture(scope="module")
def syntaxes() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        yield importlib.import_module("templates_of_calls")


NAMES = [
    line.split('"')[1]
    for line in (HERE / "templates_of_calls.py").read_text().partition("SYNTAXES")[2].splitlines()
    if line.startswith('    "') and line.rstrip().endswith(("(", ",")) and '": ' in line
]


@lru_cache(maxsize=128)
def chosen(source: str, tokens: bool) -> tuple[FormatChoice, TemplateTurns, dict[str, int]]:
    special_ids = {text: 300 + i for i, text in enumerate(token_like(source))} if tokens else {}
    template = ChatTemplate(source, {})
    turns = TemplateTurns(template, special_ids)
    return choose_format(template, source, "", special_ids, None), turns, special_ids


def parser_of(format: Format, special_ids: dict[str, int], tools: list[Tool]) -> OutputParser:
    return OutputParser(
        format,
        None,
        tools_enabled=True,
        reasoning_state="none",
        special_ids=special_ids,
        tools=tools,
    )


def spaceless(text: str) -> str:
    return "".join(text.split())


def test_every_syntax_is_tested(syntaxes: Any) -> None:
    assert list(syntaxes.SYNTAXES) == NAMES


@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("name", NAMES)
def test_a_format_is_derived_that_reads_and_writes_as_the_template(
    name: str, tokens: bool, syntaxes: Any, streams: Any, rng: random.Random
) -> None:
    source = syntaxes.calls_template(syntaxes.SYNTAXES[name])
    choice, turns, special_ids = chosen(source, tokens)
    assert choice.origin == "derived"
    assert choice.report is not None
    assert choice.report.exact
    shown = 0
    for calls in CHECKS.values():
        try:
            turn = turns(calls)
        except NotWritten:
            continue
        shown += 1
        text = turn.text.removesuffix(turn.ending)
        meant = [(call.name, call.arguments) for call in calls]
        for batches in streams.cuts(streams.pieces_of(text, special_ids), rng=rng, times=2):
            parser = parser_of(choice.format, special_ids, list(TOOLS))
            answer = streams.fold(parser, batches)
            assert answer.parsed_calls == meant, batches
            assert not answer.content.strip()
    assert shown >= 3


@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("name", NAMES)
def test_what_its_tree_lets_through_is_parsed_back(
    name: str, tokens: bool, syntaxes: Any, streams: Any, rng: random.Random
) -> None:
    """Compared with the text that a third reading of the definition writes for these calls."""
    choice, _, special_ids = chosen(syntaxes.calls_template(syntaxes.SYNTAXES[name]), tokens)
    format = choice.format
    calls_seen = 0
    for mode in ("required", "auto", "named"):
        asked = ToolChoice.named("edit") if mode == "named" else ToolChoice(mode)  # type: ignore[arg-type]
        tree = answer_grammar(
            format,
            None,
            tools=ASKED,
            tool_choice=asked,
            parallel=True,
            content=None,
            reasoning_state="none",
            special_ids=special_ids,
        )
        for _ in range(50):
            pieces = streams.walk(tree, rng, None, False)
            parser = parser_of(format, special_ids, asked.allowed(ASKED))
            atoms = streams.characters(pieces)
            answer = streams.fold(parser, [[atom] for atom in atoms])
            text = "".join(piece.text for piece in pieces)
            calls_seen += len(answer.calls)
            for called, arguments in answer.parsed_calls:
                VALIDATORS[called].validate(arguments)
            if mode != "auto":
                assert answer.calls, text
                assert not answer.content, text
            if answer.calls and "pattern" not in str(format.call) and "Keyword" not in str(format):
                made = [Call(called, arguments) for called, arguments in answer.parsed_calls]
                again = written_calls(format, made)
                # A text may end without the line end that the format writes behind it.
                assert spaceless(text).endswith(spaceless(again)), text
    assert calls_seen > 70


def test_a_format_without_a_grammar_is_never_taken() -> None:
    """Its marker's first character comes twice, so no pattern tells free text from it."""

    def write(calls: Sequence[Call], thought: str = "") -> WrittenTurn:
        return WrittenTurn(
            "".join(f"abca:{call.name} {json.dumps(call.arguments)}\n" for call in calls)
        )

    good = Format(
        name="good", marker=("xyz:",), call=(Name(), JsonArguments()), one_per_marker=True
    )
    bad = replace(good, marker=("abca:",))
    assert not check_format(good, None, write, {}).reads
    report = check_format(bad, None, write, {})
    states = {outcome.check: outcome.state for outcome in report.outcomes}
    assert states["one call"] == states["two calls"] == "ok"
    assert states["a grammar for every request"] == "wrong"
    assert not report.reads
    derived = derive_format(write, [])
    assert derived is not None
    assert derived.marker == ("abc",)
    assert check_format(derived, None, write, {}).reads


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_draws_from_its_masks_makes_valid_calls(
    name: str, syntaxes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(HERE.parents[1] / "benchmarks")
    bench = importlib.import_module("template_formats")
    choice, _, _ = chosen(syntaxes.calls_template(syntaxes.SYNTAXES[name]), True)
    calls, failures = bench.walk_back(choice.format, 40)
    assert failures == []
    assert calls > 8
