"""A byte-level tokenizer's JSON description without recognition of special tokens in text. With it,
grammars tokenize forced text without calling Python.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_HARMLESS_NORMALIZERS = ("NFC",)  # forced text must be spelled exactly


def plain_json(layout: Mapping[str, Any], special_ids: Mapping[str, int]) -> str | None:
    """The description for grammars, from the tokenizer's own (`layout`). None if the tokenizer
    encodes a text differently in the middle of an answer than by itself.
    """
    normalizer = layout["normalizer"]
    if normalizer is not None and normalizer["type"] not in _HARMLESS_NORMALIZERS:
        return None
    steps = _steps(layout["pre_tokenizer"])
    if not any(step["type"] == "ByteLevel" for step in steps):
        return None
    if any(step.get("add_prefix_space") for step in steps):
        return None
    # Noncharacters, which no text contains.
    names = {text: f"\ufffe{token_id}\uffff" for text, token_id in special_ids.items()}
    added = [
        {**entry, "content": names[entry["content"]], "special": True}
        if entry["content"] in names
        else entry
        for entry in layout["added_tokens"]
    ]
    vocab = {names.get(text, text): token_id for text, token_id in layout["model"]["vocab"].items()}
    return json.dumps(
        {
            **layout,
            "added_tokens": added,
            "model": {**layout["model"], "vocab": vocab},
            "normalizer": None,
            "post_processor": None,
            "truncation": None,
            "padding": None,
        }
    )


def _steps(pre_tokenizer: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if pre_tokenizer is None:
        return []
    return list(pre_tokenizer.get("pretokenizers", [pre_tokenizer]))
