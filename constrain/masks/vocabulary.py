"""All that a constraint knows of a tokenizer: its tokens' bytes and which of them are special."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llguidance import LLTokenizer, TokenizerWrapper

# Tokens of so many characters of a JSON string are looked at once, not in each mask: the longer the
# string may still become, the more of them it takes (docs/optimizations.md of llguidance). These
# are more lengths than llguidance's own choice, for strings with a maxLength.
_IN_STRING = r'[^"\\\x00-\x1F\x7F]'
_LENGTHS = (4, 8, 12, 16, 24, 40)
_SLICES = [r"[\x20\x0A\x0D\x09]+", *(f"{_IN_STRING}{{1,{n}}}" for n in _LENGTHS), f"{_IN_STRING}+"]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """`token_bytes[i]` is what token `i` adds to a text; of a special token, its name's bytes.

    Special tokens never match text. `encode` gives the tokenizer's own tokens of some bytes in the
    middle of an answer; without it, forced text is tokenized longest match first.
    """

    token_bytes: tuple[bytes, ...]
    special_ids: frozenset[int]
    eos_ids: tuple[int, ...]
    encode: Callable[[bytes], list[int]] | None = None
    tokenizer_json: str | None = None
    """The same tokenizer as Hugging Face's library writes it down, without special tokens in texts:
    where there is one, no mask waits for Python."""

    def ll_tokenizer(self, *, for_masks: bool = True) -> LLTokenizer:
        """The vocabulary as a token trie: about a second per 100,000 tokens, so build it once.
        Without `for_masks` sooner, but its masks are slow.
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
            if token == b"\xff":  # by which llguidance knows special tokens, and no text has it
                return True
            if native.is_special_token(token_id) != (token_id in special):
                return False
            return token_id in special or native.decode_bytes([token_id]) == token

        return native.vocab_size == len(self.token_bytes) and all(
            agrees(token_id, token) for token_id, token in enumerate(self.token_bytes)
        )


class _WrappedVocabulary:
    """The attributes that llguidance reads off a tokenizer written in Python."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = list(vocabulary.token_bytes)
        # A model without an end token never ends a text by itself; any special token will do.
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
