"""Loads a folder's tokenizer from the files that it has."""

from __future__ import annotations

from pathlib import Path

from formgate.gateway.model.mistral_tokenizer import load_mistral_tokenizer, mistral_file
from formgate.gateway.model.tokenizer import Tokenizer, load_fast_tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """Raises FileNotFoundError or ValueError with a one-line message."""
    path = mistral_file(folder)
    return load_fast_tokenizer(folder) if path is None else load_mistral_tokenizer(path)
