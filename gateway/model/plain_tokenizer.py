"""A byte-level tokenizer as Hugging Face's library writes it down, less all that makes it see
special tokens in a text. Grammars then tokenize what they force without a call of Python.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_HARMLESS_NORMALIZERS = ("NFC",)  # what a grammar forces must be spelled as it stands


def plain_json(layout: Mapping[str, Any], special_ids: Mapping[str, int]) -> str | None:
    """`layout` is the tokenizer's own description. None for a tokenizer that writes a text in other
    tokens in the middle of an answer than by itself.
    """
    normalizer = layout["normalizer"]
    if normalizer is not None and normalizer["type"] not in _HARMLESS_NORMALIZERS:
        return None
    steps = _steps(layout["pre_tokenizer"])
    if not any(step["type"] == "ByteLevel" for step in steps):
        return None
    if any(step.get("add_prefix_space") for step in steps):
        return None
    # Noncharacters: no text has them.
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
