"""What formgate would enforce of a JSON Schema and how, keyword by keyword."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from formgate.constrain.blueprint import Blueprint
from formgate.constrain.compiler import GrammarCompiler
from formgate.constrain.dialect import draft_of
from formgate.constrain.errors import ConstraintError, pointer_of
from formgate.constrain.formats import FORMATS
from formgate.constrain.keywords import LEDGER, How
from formgate.constrain.resources import Node, Resources
from formgate.constrain.schema_check import MAX_DEPTH


def schema_report(schema: Any, compiler: GrammarCompiler) -> dict[str, Any]:
    """Raises ConstraintError only for what is no schema at all."""
    report: dict[str, Any] = {
        "supported": True,
        "draft": draft_of(schema).name.removeprefix("D"),
        "keywords": [],
        "refused": None,
    }
    spec = json.dumps({"tree": {"kind": "json", "schema": schema}})
    try:
        report["keywords"] = [
            entry for node in Resources(schema, MAX_DEPTH) for entry in _keywords(node)
        ]
        blueprint = Blueprint.loads(compiler.blueprint(spec))
        shortest = compiler.shortest(spec)
    except ConstraintError as error:
        report["supported"] = False
        report["refused"] = {
            "pointer": error.pointer,
            "keyword": error.keyword,
            "code": error.code,
            "message": error.message,
        }
        return report
    report["guarded"] = bool(blueprint.guards)
    report["grammar_bytes"] = len(blueprint.source)
    report["shortest"] = {
        "text": shortest.text,
        "tokens": compiler.num_tokens(shortest.text),
        "value": json.loads(shortest.text),
    }
    return report


def _keywords(node: Node) -> Iterator[dict[str, str]]:
    if isinstance(node.schema, bool):
        return
    for keyword, value in node.schema.items():
        entry = LEDGER.get(keyword)
        how, note = (
            (How.ANNOTATION, "Not a keyword of the standard.")
            if entry is None
            else (entry.how, entry.note)
        )
        if keyword == "format" and value not in FORMATS:
            how, note = How.ANNOTATION, "A format that the standard does not define."
        yield {
            "pointer": pointer_of((*node.path, keyword)),
            "keyword": keyword,
            "how": how.value,
            "note": note,
        }
