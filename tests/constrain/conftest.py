"""Vocabularies small enough to reason about, and walks over the masks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from formgate.constrain.compiler import GrammarCompiler
from formgate.constrain.masks.matcher import GrammarConstraint
from formgate.constrain.masks.vocabulary import Vocabulary

PIECES = (b"tr", b"true", b'{"', b'": ', b'", "', b"name", b"12", b"\xe4\xb8", b"  ")


class Masks:
    """Compiles answer trees and follows their masks."""

    MARKER, EOS = 256, 257

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.size = len(vocabulary.token_bytes)
        self.compiler = GrammarCompiler(vocabulary, padded_vocab_size=self.size)

    @staticmethod
    def spec(tree: Mapping[str, Any]) -> str:
        return json.dumps({"tree": tree})

    def start(self, tree: Mapping[str, Any]) -> GrammarConstraint:
        return self.compiler.compile(self.spec(tree)).start()

    def allowed(self, constraint: GrammarConstraint) -> set[int]:
        row = np.full(-(-self.size // 32), -1, np.int32)
        constraint.fill_bitmask(row)
        bits = np.unpackbits(row.view(np.uint8), bitorder="little")
        return set(np.flatnonzero(bits).tolist())

    def accepts(self, tree: Mapping[str, Any], tokens: str | list[int]) -> bool:
        """Whether the mask lets all of it through and then lets the answer end."""
        constraint = self.start(tree)
        for token in list(tokens.encode()) if isinstance(tokens, str) else tokens:
            if token not in self.allowed(constraint):
                return False
            constraint.accept(token)
        return constraint.is_terminated() or self.EOS in self.allowed(constraint)

    def walk(self, tree: Mapping[str, Any], r: Random, limit: int = 400) -> str | None:
        """A random text of the grammar; None if it did not end within `limit` tokens."""
        constraint = self.start(tree)
        written: list[bytes] = []
        while not constraint.is_terminated():
            allowed = self.allowed(constraint)
            assert allowed, b"".join(written)
            ends = [t for t in allowed if self.vocabulary.token_bytes[t] in (b'"', b"}", b"]")]
            pick = r.choice(ends) if ends and r.random() < 0.3 else r.choice(sorted(allowed))
            if self.EOS in allowed and r.random() < 0.5:
                pick = self.EOS
            constraint.accept(pick)
            if pick != self.EOS:
                written.append(self.vocabulary.token_bytes[pick])
            if len(written) > limit:
                return None
        return b"".join(written).decode()


BYTES = (*(bytes([i]) for i in range(256)), b"<mark>", b"</s>")


@pytest.fixture(scope="session")
def masks() -> Masks:
    """One token per byte, so that a text has one tokenization only."""
    return Masks(Vocabulary(BYTES, frozenset({Masks.MARKER, Masks.EOS}), (Masks.EOS,)))


@pytest.fixture(scope="session")
def longer_masks() -> Masks:
    """Tokens across the joints of JSON too, and halves of characters."""
    return Masks(Vocabulary(BYTES + PIECES, frozenset({Masks.MARKER, Masks.EOS}), (Masks.EOS,)))


@pytest.fixture(scope="session")
def embedded_tokenizer() -> Tokenizer:
    path = Path(__file__).parents[2] / "embedded" / "tokenizer.json"
    return Tokenizer.from_file(str(path))
