"""Tokenizers in Mistral's own files (tekken.json, tokenizer.model), through mistral-common, an
optional extra. It also encodes conversations, since such folders have no chat template.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from formgate.gateway.model.token_bytes import piece_bytes
from formgate.gateway.model.tokenizer import AddedToken, Tokenizer, declared_eos_ids

_FAMILIES = ("mistral", "mixtral", "ministral", "pixtral", "devstral", "magistral")


@dataclass(frozen=True, eq=False, kw_only=True)
class MistralTokenizer(Tokenizer):
    """`mistral` is mistral-common's tokenizer. It never encodes text to special tokens, so text
    needs no escape; only `encode` looks for them.
    """

    mistral: Any

    # TemplateTraits.
    knows_developer = False
    wants_parts = False
    wants_short_call_ids = True
    wants_arguments_text = True

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        ids: list[int] = []
        start = 0
        for match in self.find_markers(text):
            ids += [*self._encode(text[start : match.start()]), self.special_ids[match[0]]]
            start = match.end()
        ids += self._encode(text[start:])
        return [self.mistral.bos_id, *ids] if add_special_tokens else ids

    def encode_plain(self, text: str, *, continues: bool = False) -> list[int]:
        return self._encode(text)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        shown = [
            self.token_bytes[i]
            for i in token_ids
            if not (skip_special_tokens and i in self.skipped_ids)
        ]
        text = b"".join(shown).decode("utf-8", "replace")
        return text.removeprefix(" ") if self.drops_first_space else text

    def encode_bytes(self, text: bytes) -> list[int]:
        try:
            # After a digit, which is always a token of its own: encodes as in mid-text.
            ids = self._encode("0" + text.decode())
        except UnicodeDecodeError:
            return self._longest_first(text)
        while ids and self.token_bytes[ids[0]] in (b" ", b"0", b" 0"):
            first, *ids = ids
            if self.token_bytes[first].endswith(b"0"):
                break
        if b"".join([self.token_bytes[i] for i in ids]) == text:
            return ids
        return self._longest_first(text)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        *,
        continue_final_message: bool,
    ) -> list[int]:
        """The ids of a conversation in OpenAI's format. Raises ValueError with the reason."""
        from mistral_common.exceptions import MistralCommonException
        from mistral_common.protocol.instruct.request import ChatCompletionRequest

        thinks = "[THINK]" in self.special_ids
        shown = [_message(message, thinks=thinks) for message in messages]
        try:
            request = ChatCompletionRequest.from_openai(
                messages=shown,
                tools=[dict(tool) for tool in tools] or None,
                continue_final_message=continue_final_message,
            )
            encoded: list[int] = self._chat.encode_chat_completion(request).tokens
        except (MistralCommonException, ValueError) as error:
            raise ValueError(str(error).strip().splitlines()[0]) from error
        return encoded

    @property
    def _chat(self) -> Any:
        return self.backend

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.mistral.encode(text, bos=False, eos=False) if text else []
        return ids


def _message(message: Mapping[str, Any], *, thinks: bool) -> dict[str, Any]:
    dropped = set() if thinks else {"reasoning", "reasoning_content"}
    if message["role"] != "tool":
        dropped.add("name")
    return {key: value for key, value in message.items() if key not in dropped}


def mistral_file(folder: Path) -> Path | None:
    """The tokenizer file in Mistral's own format, if the folder has no tokenizer.json."""
    if (folder / "tokenizer.json").is_file():
        return None
    if (folder / "tekken.json").is_file():
        return folder / "tekken.json"
    if versioned := sorted(folder.glob("tokenizer.model.v*")):
        return versioned[-1]
    plain = folder / "tokenizer.model"
    if plain.is_file() and not (folder / "tokenizer_config.json").is_file():
        config = folder / "config.json"
        model = json.loads(config.read_bytes()) if config.is_file() else {}
        if str(model.get("model_type", "")).lower().startswith(_FAMILIES):
            return plain
    return None


def load_mistral_tokenizer(path: Path) -> MistralTokenizer:
    """Raises ValueError with a one-line message."""
    chat = _load(path)
    mistral = chat.instruct_tokenizer.tokenizer
    special = {i: str(mistral.id_to_piece(i)) for i in sorted({*mistral.special_ids, 0})}
    is_tekken = path.suffix == ".json"

    def token(i: int) -> bytes:
        if i in special:
            return special[i].encode()
        if is_tekken:
            return bytes(mistral.id_to_byte_piece(i))
        return piece_bytes(mistral.id_to_piece(i), "sentencepiece")

    token_bytes = tuple(token(i) for i in range(mistral.n_words))
    added = {text: AddedToken(i, text, False, False) for i, text in special.items()}
    eos_ids = dict.fromkeys([*declared_eos_ids(path.parent), mistral.eos_id])
    return MistralTokenizer(
        backend=chat,
        kind="byte_level" if is_tekken else "sentencepiece",
        drops_first_space=not is_tekken,
        token_bytes=token_bytes,
        special_tokens=MappingProxyType(added),
        special_ids=MappingProxyType({text: i for i, text in special.items()}),
        skipped_ids=frozenset(special),
        eos_ids=tuple(i for i in eos_ids if i < len(token_bytes)),
        named_tokens=MappingProxyType(
            {"bos_token": special[mistral.bos_id], "eos_token": special[mistral.eos_id]}
        ),
        chat_templates=MappingProxyType({}),
        mistral=mistral,
    )


def _load(path: Path) -> Any:
    try:
        from mistral_common.tokens.tokenizers.mistral import MistralTokenizer as Common
    except ImportError:
        raise ValueError(
            f"{path.name} is read by mistral-common: pip install 'formgate[mistral]'"
        ) from None
    try:
        if path.name != "tokenizer.model":
            return Common.from_file(str(path))
        # mistral-common takes the version from the file's name, which this one lacks.
        with tempfile.TemporaryDirectory() as folder:
            named = Path(folder) / f"tokenizer.model.{_version(path)}"
            shutil.copy(path, named)
            return Common.from_file(str(named))
    except ImportError:
        raise ValueError(
            f"{path.name} is read by sentencepiece: pip install 'formgate[mistral]'"
        ) from None
    except Exception as error:  # a broken file may raise any exception
        raise ValueError(f"cannot read {path.name}: {error}") from error


def _version(path: Path) -> str:
    """The tokenizer version, from the vocabulary's special tokens."""
    model = path.read_bytes()
    if b"[SYSTEM_PROMPT]" in model:
        return "v7"
    return "v3" if b"[TOOL_CALLS]" in model else "v1"
