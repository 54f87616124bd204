"""The format of tool calls of each chat template in a folder: which is chosen, whether the calls
that the template writes come back, and random walks through the masks of each derived format.

    python benchmarks/template_formats.py FOLDER [--walks 2000]

A template's file may be named after its model only, so there is no tokenizer: what looks like a
special token is one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import format_walks
import jsonschema
from format_reading import CONTENT, POOL, Case, Said

from formgate.gateway.model.chat_template import ChatTemplate, ChatTemplateError
from formgate.gateway.model.templates.choosing import FormatChoice, choose_format, choose_reasoning
from formgate.parsers.derivation.atoms import token_like
from formgate.parsers.families.registry import FORMATS
from formgate.parsers.formats.format import Format

NAMED = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def choice_of(source: str) -> FormatChoice:
    texts = [*NAMED.values(), *token_like(source)]
    special_ids = {text: 100 + i for i, text in enumerate(dict.fromkeys(texts))}
    template = ChatTemplate(source, NAMED)
    reasoning = choose_reasoning(template, source, "", special_ids)
    return choose_format(template, source, "", special_ids, reasoning)


def walk_back(format: Format, count: int) -> tuple[int, list[str]]:
    """How many calls random walks through the format's masks made, and what went wrong."""
    kept, check = FORMATS.get(format.name), format_walks.check
    FORMATS[format.name], format_walks.check = format, check_valid
    try:
        return format_walks.walks(format.name, count)
    finally:
        format_walks.check = check
        del FORMATS[format.name]
        if kept is not None:
            FORMATS[format.name] = kept


def check_valid(case: Case, parsed: Said, text: str) -> None:
    """Every call is of a tool and fits its schema; there are as many as were asked for."""
    names = [name for name, _ in parsed.calls]
    for name, arguments in parsed.calls:
        assert name in {tool.name for tool in case.choice.allowed(case.tools)}, name
        jsonschema.validate(arguments, POOL[name])
    mode = case.choice.mode
    assert names or mode == "auto", "no call"
    assert len(names) <= 1 or (case.parallel and mode != "named"), "more than one call"
    assert mode == "auto" or not parsed.content.strip(), "content beside required calls"
    if case.structured and not names:
        jsonschema.validate(json.loads(parsed.content), CONTENT)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--walks", type=int, default=0, help="per derived format")
    options = parser.parse_args()
    good = shown = wrong = 0
    for path in sorted(options.folder.glob("*.jinja")):
        try:
            choice = choice_of(path.read_text(encoding="utf-8"))
        except ChatTemplateError as error:
            print(f"{path.stem}: {error}")
            continue
        outcomes: list[Any] = list(choice.report.outcomes) if choice.report else []
        writes = choice.report is not None and choice.report.shown
        shown += writes
        good += choice.confirmed
        failed = [f"{each.check}: {each.detail}" for each in outcomes if each.state == "wrong"]
        line = f"{path.stem}: {choice.format.name} ({choice.origin})"
        if not writes:
            line += f", {choice.reason}"
        print("; ".join([line, *failed]))
        if options.walks and choice.origin == "derived":
            started = time.monotonic()
            calls, failures = walk_back(choice.format, options.walks)
            wrong += len(failures)
            seconds = time.monotonic() - started
            print(
                f"    {options.walks} walks, {calls} calls, {len(failures)} wrong, {seconds:.0f} s"
            )
            for failure in failures[:3]:
                print(f"    {failure}")
        sys.stdout.flush()
    print(f"{good} of {shown} templates that write calls are read back")
    return 1 if wrong or good < shown else 0


if __name__ == "__main__":
    sys.exit(main())
