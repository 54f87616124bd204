"""Tool calls by random weights: `benchmarks/random_weights.py` with few requests."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.serve
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_random_weights_make_no_invalid_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    seen, failures = importlib.import_module("random_weights").run(18, 6)
    assert failures == []
    assert seen["refused"] == 0
    assert seen["calls"] >= 8
