"""The reference page says what the code does."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from formgate.constrain.ledger_page import page
from formgate.constrain.schema.ledger import LEDGER, How

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_that_of_the_ledger() -> None:
    committed = (DOCS / "json-schema.md").read_text()
    assert committed == page(), (
        "run `python -m formgate.constrain.ledger_page > docs/json-schema.md`"
    )


@pytest.mark.parametrize(
    "validator",
    [
        jsonschema.Draft4Validator,
        jsonschema.Draft6Validator,
        jsonschema.Draft7Validator,
        jsonschema.Draft201909Validator,
        jsonschema.Draft202012Validator,
    ],
)
def test_every_keyword_that_an_independent_validator_knows_has_an_entry(validator) -> None:
    missing = {keyword for keyword in validator.VALIDATORS if keyword not in LEDGER}
    assert missing <= {"dependencies"}


def test_what_is_refused_says_what_to_write_instead() -> None:
    refused = [keyword for keyword in LEDGER.values() if keyword.how is How.REFUSED]
    assert refused
    assert all("write" in keyword.note for keyword in refused)
