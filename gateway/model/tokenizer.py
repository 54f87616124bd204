"""The model's tokenizer: text to ids and back, special tokens, and the vocabulary as bytes. It
reads tokenizer.json itself, because importing transformers takes seconds. Conversations are the
business of `prompts`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tokenizers

from formgate.constrain.masks.vocabulary import Vocabulary
from formgate.gateway.model.plain_tokenizer import plain_json
from formgate.gateway.model.token_bytes import (
    TokenizerKind,
    drops_first_space,
    piece_bytes,
    tokenizer_kind,
)

# Added tokens that frame a model's output though they are declared as ordinary (Qwen's <tool_call>
# and <think>, for example). They are matched by id, like special tokens.
_FRAMING_TOKEN = re.compile(
    r"</?(?:think|tool_call|tool_response|tools?|arg_key|arg_value)>|<\|.+\|>"
)

# An added token of the plain tokenizer only. It stands for any special token, so that the text
# after it is encoded as in mid-text.
_JOINT = "\ue000joint\ue001"

# Shorter texts and lists take a fraction of a millisecond. Longer ones go through the batch calls,
# since only these release the GIL.
_LONG = 2_000
_SEARCHED_AT_ONCE = 32 * 1024  # characters

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")


@dataclass(frozen=True, slots=True)
class AddedToken:
    """The fields of an `added_tokens` entry in tokenizer.json that affect encoding."""

    id: int
    text: str
    lstrip: bool
    rstrip: bool


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A Hugging Face fast tokenizer.

    `special_ids` holds every token that frames a conversation, even if it is not declared special.
    `encode_plain` never returns one.
    """

    backend: Any  # tokenizers.Tokenizer; a subclass may have another
    kind: TokenizerKind
    drops_first_space: bool
    token_bytes: tuple[bytes, ...]  # by id; a special token's text; empty for an unused id
    special_tokens: Mapping[str, AddedToken]
    special_ids: Mapping[str, int]
    skipped_ids: frozenset[int]  # left out by `skip_special_tokens`
    eos_ids: tuple[int, ...]
    named_tokens: Mapping[str, str]  # bos_token, eos_token, ... as chat templates see them
    chat_templates: Mapping[str, str]  # by name; "default" and perhaps "tool_use"
    longest: int = field(init=False)  # bytes of the longest token

    def __post_init__(self) -> None:
        object.__setattr__(self, "longest", max(map(len, self.token_bytes), default=1))

    @property
    def size(self) -> int:
        """Number of ids, including added tokens; a model may have more logits."""
        return len(self.token_bytes)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of a trusted text: special tokens in it are recognised."""
        return _encode(self.backend, text, add_special_tokens=add_special_tokens)

    def encode_plain(self, text: str, *, continues: bool = False) -> list[int]:
        """`text` as ordinary tokens only. With `continues`, as after a special token."""
        if not continues:
            return _encode(self._plain, text, add_special_tokens=False)
        return _encode(self._plain, _JOINT + text, add_special_tokens=False)[1:]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        if skip_special_tokens:
            token_ids = [t for t in token_ids if t not in self.skipped_ids]
        if len(token_ids) > _LONG:
            [text] = self.backend.decode_batch([list(token_ids)], skip_special_tokens=False)
        else:
            text = self.backend.decode(list(token_ids), skip_special_tokens=False)
        assert isinstance(text, str)
        return text

    def token_text(self, token_id: int) -> str:
        """The text of one token; incomplete characters become U+FFFD."""
        return self.token_bytes[token_id].decode("utf-8", "replace")

    @functools.cached_property
    def marker_ids(self) -> frozenset[int]:
        return frozenset(self.special_ids.values())

    @functools.cached_property
    def marker_pattern(self) -> re.Pattern[str] | None:
        """Matches special tokens, longest first, as encoding does."""
        texts = sorted(self.special_ids, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, texts))) if texts else None

    def find_markers(self, text: str) -> Iterator[re.Match[str]]:
        """The special tokens in a text, in order. A search holds the GIL, so a long text is
        searched in windows."""
        pattern = self.marker_pattern
        start = 0
        while pattern is not None and start < len(text):
            found = pattern.search(text, start, start + _SEARCHED_AT_ONCE + self.longest)
            if found is None:
                start += _SEARCHED_AT_ONCE
            elif found.start() < start + _SEARCHED_AT_ONCE:
                yield found
                start = found.end()
            else:  # a longer match may extend past the window
                start = found.start()

    def vocabulary(self) -> Vocabulary:
        return Vocabulary(
            token_bytes=self.token_bytes,
            special_ids=self.marker_ids,
            eos_ids=self.eos_ids,
            encode=self.encode_bytes,
            tokenizer_json=self._plain_json(),
        )

    def _plain_json(self) -> str | None:
        if self.kind != "byte_level" or not isinstance(self.backend, tokenizers.Tokenizer):
            return None
        layout = json.loads(self.backend.to_str())
        return None if layout["model"]["type"] != "BPE" else plain_json(layout, self.special_ids)

    def encode_bytes(self, text: bytes) -> list[int]:
        """Ordinary tokens that spell exactly `text` in mid-answer: the tokenizer's own encoding if
        it is exact, otherwise the longest tokens first (for incomplete characters, or spaces that a
        sentencepiece tokenizer would add)."""
        try:
            ids = self.encode_plain(text.decode(), continues=True)
        except UnicodeDecodeError:
            return self._longest_first(text)
        if b"".join([self.token_bytes[i] for i in ids]) == text:
            return ids
        return self._longest_first(text)

    @functools.cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        # A second tokenizer: `encode_special_tokens` is a switch on the whole object, and requests
        # are encoded in several threads.
        plain = tokenizers.Tokenizer.from_str(self.backend.to_str())
        plain.add_special_tokens(
            [tokenizers.AddedToken(text, special=True) for text in self.special_ids]
        )
        plain.add_tokens([tokenizers.AddedToken(_JOINT, normalized=False, special=False)])
        plain.encode_special_tokens = True
        return plain

    @functools.cached_property
    def _ids_by_bytes(self) -> Mapping[bytes, int]:
        return {
            token: i
            for i, token in enumerate(self.token_bytes)
            if token and i not in self.marker_ids
        }

    def _longest_first(self, text: bytes) -> list[int]:
        ids: list[int] = []
        start = 0
        while start < len(text):
            for end in range(min(len(text), start + self.longest), start, -1):
                if (token_id := self._ids_by_bytes.get(text[start:end])) is not None:
                    ids.append(token_id)
                    start = end
                    break
            else:
                return ids  # no token fits: the vocabulary lacks single bytes
        return ids


def _encode(backend: Any, text: str, *, add_special_tokens: bool) -> list[int]:
    if len(text) > _LONG:
        [encoding] = backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
    else:
        encoding = backend.encode(text, add_special_tokens=add_special_tokens)
    ids: list[int] = encoding.ids
    return ids


def load_fast_tokenizer(folder: Path) -> Tokenizer:
    """Raises FileNotFoundError or ValueError with a one-line message."""
    config = _read_json(folder / "tokenizer_config.json")
    backend = _load_backend(folder)
    # The backend's own description, so that both sources are one case.
    layout = json.loads(backend.to_str())
    kind = tokenizer_kind(layout["decoder"])

    added = {
        entry["id"]: AddedToken(entry["id"], entry["content"], entry["lstrip"], entry["rstrip"])
        for entry in layout["added_tokens"]
    }
    skipped = frozenset(entry["id"] for entry in layout["added_tokens"] if entry["special"])
    special = {
        token.text: token
        for token in added.values()
        if token.id in skipped or _FRAMING_TOKEN.fullmatch(token.text)
    }
    vocabulary = backend.get_vocab(with_added_tokens=True)
    token_bytes = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for piece, token_id in vocabulary.items():
        is_added = token_id in added
        token_bytes[token_id] = piece.encode() if is_added else piece_bytes(piece, kind)

    named = {name: text for name in _NAMED_TOKENS if (text := _content(config.get(name)))}
    eos = [*declared_eos_ids(folder), *_ids(vocabulary.get(named.get("eos_token", "")))]
    return Tokenizer(
        backend=backend,
        kind=kind,
        drops_first_space=drops_first_space(layout["decoder"]),
        token_bytes=tuple(token_bytes),
        special_tokens=MappingProxyType(special),
        special_ids=MappingProxyType({text: token.id for text, token in special.items()}),
        skipped_ids=skipped,
        eos_ids=tuple(dict.fromkeys(i for i in eos if i < len(token_bytes))),
        named_tokens=MappingProxyType(named),
        chat_templates=MappingProxyType(_chat_templates(folder, config)),
    )


def declared_eos_ids(folder: Path) -> list[int]:
    """The EOS ids in a model's config files."""
    return [
        *_ids(_read_json(folder / "generation_config.json").get("eos_token_id")),
        *_ids(_read_json(folder / "config.json").get("eos_token_id")),
    ]


def _load_backend(folder: Path) -> tokenizers.Tokenizer:
    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the binding raises bare Exception
            raise ValueError(f"cannot read tokenizer.json: {error}") from error
    elif (folder / "tokenizer.model").is_file() or (folder / "vocab.json").is_file():
        # A slow import, only for old checkpoints, which it converts.
        from transformers import AutoTokenizer

        backend = AutoTokenizer.from_pretrained(str(folder)).backend_tokenizer
    else:
        raise FileNotFoundError(f"no tokenizer.json in {folder.name}")
    backend.no_padding()
    backend.no_truncation()
    return backend


def _chat_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name. A file overrides tokenizer_config.json, as in transformers."""
    templates: dict[str, str] = {}
    declared = config.get("chat_template")
    if isinstance(declared, str):
        templates["default"] = declared
    elif isinstance(declared, list):
        templates.update({entry["name"]: entry["template"] for entry in declared})
    path = folder / "chat_template.jinja"
    if path.is_file():
        templates["default"] = path.read_text(encoding="utf-8")
    for extra in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        templates[extra.stem] = extra.read_text(encoding="utf-8")
    return templates


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is not valid JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return loaded


def _content(token: object) -> str | None:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _ids(value: object) -> Iterable[int]:
    if isinstance(value, bool) or value is None:
        return ()
    if isinstance(value, int):
        return (value,)
    return tuple(value) if isinstance(value, list) else ()
