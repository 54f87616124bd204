"""The oracle of tests and benchmarks: the `jsonschema` package, under the draft that the schema
names and with formats checked. It runs patterns in Python's backtracking engine and follows every
reference anew, so a server never gives it a client's schema; see `answer_check`.
"""

from __future__ import annotations

import json
from typing import Any

from formgate.constrain.schema.dialect import draft_of


def validate_json(text: str, schema: Any) -> str | None:
    """What is wrong with `text` under `schema`, or None. It never raises on a wrong text."""
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"not JSON: {error}"
    except RecursionError:
        return None  # deeper than this parser goes, which says nothing of the answer
    kind = draft_of(schema).validator
    validator = kind(schema, format_checker=kind.FORMAT_CHECKER)
    wrong = next(iter(validator.iter_errors(value)), None)
    return None if wrong is None else f"{wrong.json_path}: {wrong.message[:200]}"
