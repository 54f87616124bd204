"""Regular constraints by the finite-state index of Outlines (Willard and Louf, arXiv:2307.09702).
The allowed tokens of every state are computed when the constraint is compiled.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from outlines_core import Guide, Index
from outlines_core import Vocabulary as IndexVocabulary

from formgate.constrain.errors import ConstraintError
from formgate.constrain.masks.vocabulary import Vocabulary
from formgate.constrain.regex.request_regexes import regex_term

MAX_ROLLBACK = 256  # tokens that can be taken back


def regex_of(node: Mapping[str, Any]) -> str | None:
    """The answer tree as one regex; None if it is not regular or has special tokens. Raises
    ConstraintError.
    """
    match node["kind"]:
        case "regex":
            regex = regex_term(node["pattern"]).regex
            return None if regex is None else f"(?:{regex})"
        case "text":
            return str(re.escape(node["value"]))
        case "seq" | "choice":
            parts = [regex_of(item) for item in node["items"]]
            known = [part for part in parts if part is not None]
            if len(known) < len(parts):
                return None
            return "".join(known) if node["kind"] == "seq" else f"(?:{'|'.join(known)})"
    return None


class FsmConstraint:
    """Satisfies the engine's `TokenConstraint`."""

    __slots__ = ("_ended", "_eos_id", "_guide", "_words")

    closed = False  # it never ends an answer early

    def __init__(self, index: Index, eos_id: int, words: int) -> None:
        self._guide = Guide(index, MAX_ROLLBACK)
        self._eos_id = eos_id
        self._words = words
        self._ended = False  # the guide allows the end token, but has no state after it

    def fill_bitmask(self, row: NDArray[np.int32]) -> bool:
        """Write the allowed tokens into `row`, whose words past the vocabulary become 0."""
        row[:] = 0
        self._guide.write_mask_into(row.ctypes.data, self._words, row.itemsize)
        return True

    def prepared(self) -> None:
        return None

    def finish_bitmask(self, row: NDArray[np.int32]) -> bool:
        return self.fill_bitmask(row)

    def accept(self, token_id: int) -> None:
        """Raises RuntimeError if the constraint does not allow the token."""
        if token_id != self._eos_id:
            try:
                self._guide.advance(token_id, False)
            except ValueError as error:
                raise RuntimeError(f"token {token_id} doesn't satisfy the regex") from error
        elif self._guide.is_finished():
            self._ended = True
        else:
            raise RuntimeError("the answer may not end here")

    def forced_tokens(self) -> list[int]:
        return []  # the index does not know the tokenizer's own tokens of a forced text

    def rollback(self, num_tokens: int) -> None:
        if num_tokens and self._ended:
            self._ended = False
            num_tokens -= 1
        self._guide.rollback_state(num_tokens)

    def is_terminated(self) -> bool:
        return self._ended


class CompiledFsm:
    """An index, shared by all its sequences."""

    def __init__(self, index: Index, eos_id: int, words: int) -> None:
        self._index, self._eos_id, self._words = index, eos_id, words

    def start(self) -> FsmConstraint:
        return FsmConstraint(self._index, self._eos_id, self._words)


class FsmCompiler:
    """Thread-safe. The model must have an end token, as an index accepts only with one."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._eos_id = vocabulary.eos_ids[0]
        self._words = -(-len(vocabulary.token_bytes) // 32)
        ids: dict[bytes, list[int]] = {}
        for token_id, token in enumerate(vocabulary.token_bytes):
            if token and token_id not in vocabulary.special_ids and token_id != self._eos_id:
                ids.setdefault(token, []).append(token_id)
        self._vocabulary = IndexVocabulary(self._eos_id, ids)
        self._lock = threading.Lock()

    def compile(self, pattern: str) -> CompiledFsm:
        """Raises ConstraintError."""
        try:
            with self._lock:
                index = Index(pattern, self._vocabulary)
        except (ValueError, OSError) as error:
            raise ConstraintError(
                f"The regex cannot be compiled by Outlines: {' '.join(str(error).split())[:300]}",
                code="invalid_grammar",
            ) from None
        return CompiledFsm(index, self._eos_id, self._words)
