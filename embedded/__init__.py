"""The model that formgate serves by default: a Hugging Face folder beside this file."""

from __future__ import annotations

from pathlib import Path


def path() -> Path:
    """The folder with its config, weights, tokenizer and chat template."""
    return Path(__file__).parent
