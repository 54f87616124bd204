"""`formgate template MODEL_OR_FILE`: which format of tool calls a model's chat template shows, and
why. It reads a model's folder, downloads only its tokenizer, or reads one template's file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formgate.gateway.model.chat_template import ChatTemplate, ChatTemplateError
from formgate.gateway.model.model_profile import read_architecture
from formgate.gateway.model.templates.choosing import FormatChoice, choose_format, choose_reasoning
from formgate.gateway.model.tokenizer_folder import load_tokenizer
from formgate.gateway.serving.model_hub import ModelError, resolve_model
from formgate.parsers.derivation.atoms import token_like
from formgate.parsers.derivation.words import example_of, in_words, thought_in_words

_NAMED = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


@dataclass(frozen=True)
class _Given:
    """A template and what its tokenizer says. `guessed`: there is no tokenizer, so what looks like
    a special token is taken for one."""

    source: str | None
    architecture: str
    special_ids: dict[str, int]
    named_tokens: dict[str, str]
    guessed: bool


def template_command(words: Sequence[str]) -> int:
    """Print the report. 0: the calls that the template writes come back; 1: they do not, or it
    writes none; 2: there is no such template.
    """
    parser = argparse.ArgumentParser(
        prog="formgate template",
        description="Says which format of tool calls a chat template shows, and checks it.",
    )
    parser.add_argument("model", metavar="MODEL_OR_FILE", help="a folder, a hub name or a file")
    parser.add_argument("--chat-template", metavar="FILE", help="in place of the model's own")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    options = parser.parse_args(words)
    try:
        given = _given(options.model, options.chat_template)
        report = _report(given)
    except (ModelError, OSError, ValueError) as error:
        print(f"formgate: error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report, ensure_ascii=False, indent=2) if options.json else _as_text(report))
    return 0 if report["calls_come_back"] else 1


def _given(model: str, template: str | None) -> _Given:
    path = Path(model).expanduser()
    if path.is_file():
        source = path.read_text(encoding="utf-8")
        tokens = {text: number for number, text in enumerate([*_NAMED.values()])}
        tokens |= {text: len(tokens) + i for i, text in enumerate(token_like(source))}
        return _Given(source, "", tokens, _NAMED, guessed=True)
    folder = resolve_model(model, tokenizer_only=True)
    tokenizer = load_tokenizer(folder)
    source_of_model = tokenizer.chat_templates.get("default")
    if template is not None:
        source_of_model = Path(template).read_text(encoding="utf-8")
    return _Given(
        source_of_model,
        read_architecture(folder),
        dict(tokenizer.special_ids),
        dict(tokenizer.named_tokens),
        guessed=False,
    )


def _report(given: _Given) -> dict[str, Any]:
    template = None
    if given.source is not None:
        try:
            template = ChatTemplate(given.source, given.named_tokens)
        except ChatTemplateError as error:
            raise ValueError(str(error)) from error
    reasoning = choose_reasoning(template, given.source, given.architecture, given.special_ids)
    choice = choose_format(template, given.source, given.architecture, given.special_ids, reasoning)
    return {
        "format": choice.format.name,
        "chosen": choice.origin,
        "reason": choice.reason,
        "reasoning": reasoning.name if reasoning is not None else None,
        "thoughts": thought_in_words(reasoning) if reasoning is not None else "",
        "special_tokens": "guessed" if given.guessed else "of the tokenizer",
        "in_words": in_words(choice.format),
        "example": example_of(choice.format),
        "checks": _checks(choice),
        "writes_the_same": bool(choice.confirmed and choice.report and choice.report.exact),
        "calls_come_back": choice.confirmed,
    }


def _checks(choice: FormatChoice) -> list[dict[str, str]]:
    outcomes = choice.report.outcomes if choice.report is not None else ()
    return [
        {"check": each.check, "outcome": each.state, "detail": each.detail} for each in outcomes
    ]


def _as_text(report: dict[str, Any]) -> str:
    lines = [
        f"format:    {report['format']} ({report['chosen']})",
        f"why:       {report['reason']}",
        f"reasoning: {report['reasoning'] or 'none'} {report['thoughts']}".rstrip(),
        f"tokens:    {report['special_tokens']}",
        "",
        *(f"{name}: {said}" for name, said in report["in_words"].items()),
        "",
        "an example:",
        *(f"    {line}" for line in report["example"].split("\n")),
        "",
    ]
    for each in report["checks"]:
        detail = f": {each['detail']}" if each["detail"] else ""
        lines.append(f"{each['check']}: {each['outcome']}{detail}")
    if report["calls_come_back"] and not report["writes_the_same"]:
        lines.append("The format's own calls differ a little from the template's.")
    return "\n".join(lines)
