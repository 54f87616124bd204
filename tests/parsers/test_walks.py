"""Random walks through the masks of every format, each read back by the parser and by other means:
`benchmarks/format_walks.py` with few walks.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from formgate.parsers.families.registry import FORMATS

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


@pytest.mark.parametrize("name", FORMATS)
def test_guards_hold_in_every_format_and_behind_reasoning(
    name: str, format_walks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = importlib.import_module("format_reading")
    for tool in list(reading.POOL):
        monkeypatch.delitem(reading.POOL, tool)
    for tool, schema in reading.GUARDED.items():
        monkeypatch.setitem(reading.POOL, tool, schema)
    for keyword, value in reading.GUARDED["get"].items():
        monkeypatch.setitem(reading.CONTENT, keyword, value)
    calls, failures = format_walks.walks(name, 80, 1_000)
    assert failures == []
    assert calls > 20
