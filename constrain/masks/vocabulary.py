"""The vocabulary that constraints are compiled for: the bytes of each token, and special tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llguidance import LLTokenizer, TokenizerWrapper

# llguidance caches the masks of these token sets, and applies a set as a whole if the string may
# still become that long (docs/optimizations.md of llguidance). These are more lengths than its
# default, for strings with a maxLength.
_IN_STRING = r'[^"\\\x00-\x1F\x7F]'
_LENGTHS = (4, 8, 12, 16, 24, 40)
_SLICES = [r"[\x20\x0A\x0D\x09]+", *(f"{_IN_STRING}{{1,{n}}}" for n in _LENGTHS), f"{_IN_STRING}+"]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """`token_bytes[i]` are the bytes that token `i` adds to a text; of a special token, its name.

    Special tokens never match text. `encode` returns the tokenizer's own tokens of bytes inside of
    an answer; without it, forced text is tokenized by longest match.
    """

    token_bytes: tuple[bytes, ...]
    special_ids: frozenset[int]
    eos_ids: tuple[int, ...]
    encode: Callable[[bytes], list[int]] | None = None
    tokenizer_json: str | None = None
    """The same tokenizer in the format of Hugging Face's `tokenizer.json`, without special tokens
    in texts. With it, masks do not call into Python."""

    def ll_tokenizer(self, *, for_masks: bool = True) -> LLTokenizer:
        """The vocabulary as a token trie. Takes about a second per 100,000 tokens, so build it
        once; less without `for_masks`, but then masks are slow.
        """
        eos_ids = list(self.eos_ids) or None
        slices = _SLICES if for_masks else []
        if self.tokenizer_json is not None:
            size = len(self.token_bytes)
            native = LLTokenizer(
                self.tokenizer_json, n_vocab=size, eos_token=eos_ids, slices=slices
            )
            if self._is_same(native):
                return native
        wrapped = TokenizerWrapper(_WrappedVocabulary(self))
        return LLTokenizer(wrapped, eos_token=eos_ids, slices=slices)

    def _is_same(self, native: LLTokenizer) -> bool:
        special = self.special_ids | set(self.eos_ids)

        def agrees(token_id: int, token: bytes) -> bool:
            if token == b"\xff":  # llguidance's prefix of special tokens, which no text has
                return True
            if native.is_special_token(token_id) != (token_id in special):
                return False
            return token_id in special or native.decode_bytes([token_id]) == token

        return native.vocab_size == len(self.token_bytes) and all(
            agrees(token_id, token) for token_id, token in enumerate(self.token_bytes)
        )


class _WrappedVocabulary:
    """The attributes that llguidance reads of a tokenizer written in Python."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = list(vocabulary.token_bytes)
        # llguidance requires an end token. A model without one gets any special token.
        self.eos_token_id = next(iter(vocabulary.eos_ids or sorted(vocabulary.special_ids)), 0)
        self.bos_token_id = None
        self.special_token_ids = sorted(vocabulary.special_ids | set(vocabulary.eos_ids))
        self._encode = vocabulary.encode or self._longest_match
        self._ids = {
            token: i for i, token in enumerate(self.tokens) if i not in vocabulary.special_ids
        }
        self._longest = max(map(len, self.tokens), default=1)

    def __call__(self, text: bytes) -> list[int]:
        return self._encode(text)

    def _longest_match(self, text: bytes) -> list[int]:
        ids: list[int] = []
        start = 0
        while start < len(text):
            for end in range(min(len(text), start + self._longest), start, -1):
                if (token_id := self._ids.get(text[start:end])) is not None:
                    ids.append(token_id)
                    start = end
                    break
            else:
                return ids
        return ids
