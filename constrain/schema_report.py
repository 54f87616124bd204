"""The report of a JSON Schema: how formgate enforces it, keyword by keyword."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from formgate.constrain.answer_check import AnswerCheck, Unchecked
from formgate.constrain.compiler import GrammarCompiler, Limits
from formgate.constrain.errors import ConstraintError, pointer_of
from formgate.constrain.masks.blueprint import Blueprint
from formgate.constrain.regex.formats import FORMATS
from formgate.constrain.schema.dialect import draft_of
from formgate.constrain.schema.ledger import LEDGER, How
from formgate.constrain.schema.resources import SchemaNode
from formgate.constrain.schema.schema_check import MAX_DEPTH, checked

# `max_depth`: levels of schemas inside schemas. `max_spec_bytes`: of the constraint as JSON.
LIMITS = {"max_depth": MAX_DEPTH, "max_spec_bytes": Limits.max_spec_bytes}


def schema_report(schema: Any, compiler: GrammarCompiler) -> dict[str, Any]:
    """Report on a schema. A refusal is part of the report; ConstraintError is never raised."""
    keywords: list[dict[str, str]] = []
    spec = json.dumps({"tree": {"kind": "json", "schema": schema}})
    try:
        for node in checked(schema):
            keywords.extend(_keywords(node))
        text, shortest = compiler.sized_blueprint(spec)
    except ConstraintError as error:
        return refused_report(schema, error, keywords)
    blueprint = Blueprint.loads(text)
    guarded = bool(blueprint.guards)
    return _report(schema, keywords) | {
        "guarded": guarded,
        "grammar_bytes": len(blueprint.source),
        "shortest": _shortest(schema, shortest.text, compiler, guarded=guarded),
    }


def _shortest(
    schema: Any, text: str, compiler: GrammarCompiler, *, guarded: bool
) -> dict[str, Any] | None:
    """The shortest instance; None if none is known. A grammar lacks the conditions of a guard, so
    the shortest text of a guarded schema may repeat an item and be invalid.
    """
    try:
        value = json.loads(text)
        if AnswerCheck(json.dumps(schema)).failure(text) is not None:
            return None
    except (ValueError, RecursionError):  # none was found, or this parser cannot read it
        return None
    except Unchecked:
        if guarded:
            return None
    return {"text": text, "tokens": compiler.num_tokens(text), "value": value}


def refused_report(
    schema: Any, error: ConstraintError, keywords: Sequence[dict[str, str]] = ()
) -> dict[str, Any]:
    """The report of a schema that `error` refuses."""
    return _report(schema, keywords) | {
        "supported": False,
        "refused": {
            "pointer": error.pointer,
            "keyword": error.keyword,
            "code": error.code,
            "message": error.message,
        },
    }


def _report(schema: Any, keywords: Sequence[dict[str, str]]) -> dict[str, Any]:
    return {
        "supported": True,
        "draft": draft_of(schema).name.removeprefix("D"),
        "keywords": list(keywords),
        "refused": None,
        "guarded": None,
        "grammar_bytes": None,
        "shortest": None,
        "limits": LIMITS,
    }


def _keywords(node: SchemaNode) -> Iterator[dict[str, str]]:
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
