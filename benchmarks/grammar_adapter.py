"""formgate's constraint engine for a bench whose engines compile a schema and walk token ids: the
whole path, ledger, rewrites, masks and guards.
"""

from __future__ import annotations

import gc
import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from formgate.constrain.compiler import GrammarCompiler
from formgate.constrain.masks.vocabulary import Vocabulary


class BenchTokenizer(Protocol):
    vocab: list[bytes]
    special: dict[int, str]
    eos: int

    def encode(self, text: str) -> list[int]: ...


class Formgate:
    name = "formgate"
    note = "json.dumps spacing"

    def __init__(self, tok: BenchTokenizer) -> None:
        try:
            self.version = version("formgate")
        except PackageNotFoundError:
            self.version = "source"
        token_bytes = tuple(
            tok.special[i].encode() if i in tok.special else piece
            for i, piece in enumerate(tok.vocab)
        )
        vocabulary = Vocabulary(
            token_bytes,
            frozenset(tok.special),
            (tok.eos,),
            encode=lambda text: tok.encode(text.decode("utf-8", "ignore")),
        )
        self._compiler = GrammarCompiler(vocabulary, padded_vocab_size=len(token_bytes))
        self._compiler.warm_up()
        self._compiler.warm_up_formats()
        gc.freeze()  # as a compile worker does
        self._words = -(-len(token_bytes) // 32)

    def compile(self, schema: Any) -> FormgateCompiled:
        spec = json.dumps({"tree": {"kind": "json", "schema": schema}})
        return FormgateCompiled(self._compiler.compile(spec), self._words)


class FormgateCompiled:
    def __init__(self, compiled: Any, words: int) -> None:
        self._compiled = compiled
        self._row = np.zeros(words, dtype=np.int32)

    def matcher(self) -> FormgateMatcher:
        return FormgateMatcher(self._compiled.start(), self._row)


class FormgateMatcher:
    def __init__(self, constraint: Any, row: NDArray[np.int32]) -> None:
        self._constraint = constraint
        self._row = row

    def mask(self) -> NDArray[np.int32]:
        self._constraint.fill_bitmask(self._row)
        return self._row

    def advance(self, token: int) -> bool:
        self._constraint.accept(token)
        return True
