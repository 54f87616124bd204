"""The oracle of tests and benchmarks: the `jsonschema` package, with the schema's draft and with
formats asserted. It runs patterns in Python's backtracking engine and resolves every reference
again at each use, so a server must not run it on a client's schema; see `answer_check`.
"""

from __future__ import annotations

import json
from typing import Any

from formgate.constrain.schema.dialect import draft_of


def validate_json(text: str, schema: Any) -> str | None:
    """Return the first error of `text` under `schema`, or None. A text that is not JSON is an
    error; one nested too deeply to parse is not.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"not JSON: {error}"
    except RecursionError:
        return None  # too deep for this parser, so nothing is known
    kind = draft_of(schema).validator
    validator = kind(schema, format_checker=kind.FORMAT_CHECKER)
    wrong = next(iter(validator.iter_errors(value)), None)
    return None if wrong is None else f"{wrong.json_path}: {wrong.message[:200]}"
