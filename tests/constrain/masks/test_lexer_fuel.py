"""Patterns that are dear to follow: a mask that takes long is better than a request that fails."""

from __future__ import annotations

import json


def test_counted_words_within_a_length(masks) -> None:
    pattern = r"^$|(^(?:\S+\s+){0,99}\S+$)"
    words = {"type": "string", "minLength": 1, "maxLength": 5000, "pattern": pattern}
    schema = {"type": "object", "properties": {"question": words, "answer": words}}
    tree = {"kind": "json", "schema": schema}
    assert masks.accepts(tree, json.dumps({"question": "What is it?", "answer": "x " * 99 + "x"}))
    assert not masks.accepts(tree, json.dumps({"answer": "x " * 100 + "x"}))
