"""Random walks through the masks of every format, each read back by the parser and by other means:
`benchmarks/format_walks.py` with few walks.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from formgate.parsers.registry import FORMATS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def format_walks() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("format_walks")


@pytest.mark.parametrize("name", FORMATS)
def test_what_the_masks_let_through_is_parsed_back(name: str, format_walks: Any) -> None:
    calls, failures = format_walks.walks(name, 200)
    assert failures == []
    assert calls > 50
