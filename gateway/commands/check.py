"""`formgate check SCHEMA`: how each keyword of a JSON Schema is enforced, without a server. A
compile worker makes the report, with a server's limits, so `/v1/schema/check` says the same.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from formgate.constrain.errors import ConstraintError
from formgate.constrain.schema_report import refused_report
from formgate.gateway.commands.inputs import CommandParser, InputError, json_of
from formgate.gateway.errors import ApiError
from formgate.gateway.processes.compile_worker import worker_command
from formgate.gateway.processes.compile_workers import WorkerFailed, Workers
from formgate.gateway.protocol.json_text import write_json
from formgate.gateway.protocol.parse import parse_object
from formgate.gateway.protocol.schema_check import SchemaCheckRequest
from formgate.gateway.serving.model_hub import ModelError, resolve_model

STYLES = {
    "mask": "green",
    "rewrite": "green",
    "guard": "cyan",
    "annotation": "dim",
    "refused": "bold red",
}


def check_command(words: Sequence[str]) -> int:
    """Print the report. 0: the schema is enforced in full; 1: it is refused; 2: there is no such
    file, or it holds no schema.
    """
    options = _parser().parse_args(words)
    try:
        schema = _schema_in(json_of(options.schema), options.schema)
        report = report_on(schema, options.model)
    except (InputError, ModelError) as error:
        print(f"formgate: error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        _show(report, Console(highlight=False))
    return 0 if report["supported"] else 1


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="formgate check",
        description="Says how each keyword of a JSON Schema is enforced, or why it is refused.",
        epilog="Exit code: 0 if the schema is enforced in full, 1 if it is refused, 2 without one.",
    )
    parser.add_argument(
        "schema",
        metavar="SCHEMA",
        help="a file with a schema or with a response_format, or - for standard input",
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="count the tokens of the shortest answer as this model does (default: the embedded)",
    )
    parser.add_argument("--json", action="store_true", help="as /v1/schema/check answers")
    return parser


def _schema_in(value: Any, name: str) -> Any:
    """The schema in a file's value. Raises InputError."""
    formatted = isinstance(value, dict) and value.get("type") == "json_schema"
    try:
        return parse_object(SchemaCheckRequest, value if formatted else {"schema": value}).asked()
    except ApiError as error:
        raise InputError(f"{name}: {error.message}") from None


def report_on(schema: Any, model: str | None = None) -> dict[str, Any]:
    """`schema_report` of a schema, by the vocabulary of `model`. Raises InputError for NaN, which
    JSON lacks, and ModelError.
    """
    try:
        text = write_json(schema)
    except ValueError:
        raise InputError("A schema must not hold NaN or Infinity.") from None
    folder = resolve_model(model, tokenizer_only=True)
    workers = Workers(worker_command(folder, folder, "llguidance"), 1)
    with contextlib.closing(workers):
        try:
            report: dict[str, Any] = json.loads(workers.ask(0, "schema_report", text))
        except ConstraintError as error:  # the compiler ran out of time or memory
            return refused_report(schema, error)
        except (ApiError, WorkerFailed):
            raise InputError("The schema compiler has failed.") from None
    return report


def _show(report: dict[str, Any], console: Console) -> None:
    if report["keywords"]:
        table = Table(box=None, pad_edge=False)
        table.add_column("keyword", overflow="fold")
        table.add_column("held by", no_wrap=True)
        table.add_column("")
        for entry in report["keywords"]:
            how = f"[{STYLES[entry['how']]}]{entry['how']}[/]"
            table.add_row(escape(entry["pointer"]), how, escape(entry["note"]))
        console.print(table)
        console.print()
    if (refused := report["refused"]) is not None:
        place = refused["pointer"] or "the root"
        console.print(f"[bold red]refused[/] at {escape(place)} ({refused['code']})")
        console.print(escape(refused["message"]))
        return
    console.print(f"[bold green]enforced in full[/] (draft {report['draft']})")
    if (shortest := report["shortest"]) is not None:
        console.print(
            f"The shortest answer has {shortest['tokens']} tokens: {escape(shortest['text'])}",
            soft_wrap=True,
        )
