"""`formgate check`: its verdicts are the compiler's, and its exit code follows them."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from formgate import embedded
from formgate.constrain.schema.ledger import How
from formgate.constrain.schema_report import schema_report
from formgate.gateway import cli
from formgate.gateway.commands.check import STYLES
from formgate.gateway.model.tokenizer_folder import load_tokenizer
from formgate.gateway.processes.grammar_setup import grammar_compiler

PERSON = {
    "type": "object",
    "properties": {"tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True}},
    "required": ["tags"],
    "title": "[red]Person",
}


@pytest.fixture
def schema_file(tmp_path: Path):  # type: ignore[no-untyped-def]
    def write(schema: Any) -> str:
        path = tmp_path / "schema.json"
        path.write_text(schema if isinstance(schema, str) else json.dumps(schema))
        return str(path)

    return write


def test_the_report_is_the_compilers_own(schema_file, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    assert cli.main(["check", schema_file(PERSON), "--json"]) == 0
    folder = embedded.path()
    compiler = grammar_compiler(load_tokenizer(folder), folder, "llguidance", for_masks=False)
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads(json.dumps(schema_report(PERSON, compiler)))
    assert said["shortest"]["value"] == {"tags": []}


def test_a_response_format_is_its_schema(schema_file, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    assert cli.main(["check", schema_file(form)]) == 0
    shown = capsys.readouterr().out
    assert "/properties/tags/uniqueItems  guard" in shown
    assert "enforced in full (draft 2020)" in shown
    assert '{"tags": []}' in shown


def test_a_refused_schema_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    body = io.BytesIO(b'{"properties": {"a": {"divisibleBy": 2}}}')
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(body))
    assert cli.main(["check", "-"]) == 1
    shown = capsys.readouterr().out
    assert "refused at /properties/a/divisibleBy (unsupported_schema)" in shown


def test_a_schema_beyond_a_servers_limits_is_refused(
    schema_file,  # type: ignore[no-untyped-def]
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["check", schema_file({"const": "a" * 2_100_000}), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["refused"]["code"] == "schema_too_complex"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ("5", "schema"),
        ('{"maximum": NaN}', "NaN"),
        ('{"type": "json_schema"}', "json_schema"),
    ],
)
def test_what_is_no_schema(
    schema_file,  # type: ignore[no-untyped-def]
    text: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["check", schema_file(text)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "/no/schema.json"]) == 2
    assert "/no/schema.json: No such file" in capsys.readouterr().err


def test_every_verdict_has_a_style() -> None:
    assert set(STYLES) == {how.value for how in How}
