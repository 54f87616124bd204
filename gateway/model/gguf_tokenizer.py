"""The tokenizer.json and tokenizer_config.json that a GGUF file's metadata stands for. Two kinds
are known: byte-level BPE ("gpt2"), whose splitting rule has a name, and sentencepiece ("llama").
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from formgate.engine.loading.gguf_file import GGUFError, GGUFHeader
from formgate.gateway.model.token_bytes import SPACE_MARK

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_ENDS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_ENDS}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_ENDS}"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DIGITS = {"type": "Digits", "individual_digits": True}


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": use_regex,
    }


def _split(pattern: str) -> list[dict[str, Any]]:
    rule = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return [rule, _byte_level(use_regex=False)]


# How a text is split before its parts are encoded, by `tokenizer.ggml.pre`.
SPLITTING_RULES: Mapping[str, list[dict[str, Any]]] = {
    "gpt-2": [_byte_level(use_regex=True)],
    "smollm": [_DIGITS, _byte_level(use_regex=True)],
    "llama-bpe": _split(_LLAMA3),
    "qwen2": _split(_QWEN2),
    "tekken": _split(_TEKKEN),
}
_OTHER_NAMES = {
    "llama-v3": "llama-bpe",
    "llama3": "llama-bpe",
    "smaug-bpe": "llama-bpe",
    "deepseek-r1-qwen": "qwen2",
}
# A part that is a token by itself is not merged anew.
_WHOLE_PARTS = ("llama-bpe", "tekken")
_BEGINS_BY_DEFAULT = ("llama-bpe", "tekken")

# Characters. Longer pieces are a damaged file's; the largest published vocabularies have 2,000,000.
_LONGEST_PIECE = 128
_MOST_PIECE_CHARS = 1 << 24

_NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


def gguf_tokenizer(header: GGUFHeader) -> tuple[dict[str, Any], dict[str, Any]]:
    """(tokenizer.json, tokenizer_config.json). Raises GGUFError for a kind that is not known."""
    tokens: list[str] = header.require("tokenizer.ggml.tokens", list)
    if not all(isinstance(token, str) for token in tokens):
        raise GGUFError(f"{header.path.name}: tokenizer.ggml.tokens are not strings")
    kinds = header.get("tokenizer.ggml.token_type", (array, list)) or [_NORMAL] * len(tokens)
    if len(kinds) != len(tokens):
        raise GGUFError(f"{header.path.name} has {len(kinds)} token types for {len(tokens)} tokens")
    model = header.require("tokenizer.ggml.model", str)
    # A token that is not in use takes part in nothing: its text is made up.
    vocab = {token: i for i, token in enumerate(tokens) if kinds[i] != _UNUSED}
    if model == "gpt2":
        layout, begins = _byte_level_bpe(header, vocab), _begins_by_default(header)
    elif model == "llama":
        layout, begins = _sentencepiece(header, vocab, tokens), True
    else:
        raise GGUFError(
            f"{header.path.name} has the unsupported tokenizer {model} (supported: gpt2, llama)"
        )
    config = _config(header, tokens)
    bos = config.get("bos_token")
    if bos is not None and header.get("tokenizer.ggml.add_bos_token", bool, begins):
        layout["post_processor"] = _beginning(bos, vocab[bos])
    layout["added_tokens"] = [
        {
            "id": i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kinds[i] in (_CONTROL, _UNKNOWN),
        }
        for i, token in enumerate(tokens)
        if _is_added(token, kinds[i], model)
    ]
    return {"version": "1.0", "truncation": None, "padding": None, **layout}, config


def _is_added(token: str, kind: int, model: str) -> bool:
    """True if the token is found in a text before any other rule. Of a sentencepiece model, spaces
    that the authors listed are spelled otherwise than in a text, and are merged like any piece.
    """
    if kind in (_CONTROL, _UNKNOWN):
        return True
    return kind == _USER_DEFINED and not (model == "llama" and SPACE_MARK in token)


def _byte_level_bpe(header: GGUFHeader, vocab: dict[str, int]) -> dict[str, Any]:
    rule = _splitting_rule(header)
    steps = SPLITTING_RULES[rule]
    return {
        "normalizer": {"type": "NFC"} if rule == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": _byte_level(use_regex=True),
        "model": _bpe(vocab, _listed_merges(header, vocab), ignore_merges=rule in _WHOLE_PARTS),
    }


def _listed_merges(header: GGUFHeader, vocab: Mapping[str, int]) -> list[list[str]]:
    merges = [str(merge).split(" ") for merge in header.require("tokenizer.ggml.merges", list)]
    for parts in merges:
        if len(parts) != 2 or not vocab.keys() >= {*parts, "".join(parts)}:
            raise GGUFError(f"{header.path.name} joins {parts[:3]}, which makes no token")
    return merges


def _splitting_rule(header: GGUFHeader) -> str:
    name: str = header.get("tokenizer.ggml.pre", str, "gpt-2")
    rule = _OTHER_NAMES.get(name, name)
    if rule not in SPLITTING_RULES:
        raise GGUFError(
            f"{header.path.name} splits text by the unsupported rule {name} (supported: "
            f"{', '.join(SPLITTING_RULES)})"
        )
    return rule


def _begins_by_default(header: GGUFHeader) -> bool:
    return _splitting_rule(header) in _BEGINS_BY_DEFAULT


def _sentencepiece(
    header: GGUFHeader, vocab: dict[str, int], tokens: Sequence[str]
) -> dict[str, Any]:
    scores = header.get("tokenizer.ggml.scores", array)
    if scores is None or len(scores) != len(tokens):
        raise GGUFError(f"{header.path.name} has no tokenizer.ggml.scores for all tokens")
    if sum(map(len, vocab)) > _MOST_PIECE_CHARS:
        raise GGUFError(
            f"{header.path.name}: tokenizer.ggml.tokens have more than {_MOST_PIECE_CHARS} "
            "characters"
        )
    spaced = header.get("tokenizer.ggml.add_space_prefix", bool, True)
    marks: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
    ]
    if spaced:
        marks.insert(0, {"type": "Prepend", "prepend": SPACE_MARK})
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if spaced:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = header.get("tokenizer.ggml.unknown_token_id", int)
    named = tokens[unknown] if unknown is not None and 0 <= unknown < len(tokens) else None
    return {
        "normalizer": {"type": "Sequence", "normalizers": marks},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": steps},
        "model": _bpe(vocab, _merges(vocab, scores), unknown=named, byte_fallback=True),
    }


def _merges(vocab: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """The merges of a sentencepiece BPE model, which lists pieces and scores only: every way to
    join two pieces to a third, by the third's score.
    """
    found = [
        (-scores[number], vocab[piece[:cut]], vocab[piece[cut:]], piece[:cut], piece[cut:])
        for piece, number in vocab.items()
        if len(piece) <= _LONGEST_PIECE
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    return [(left, right) for _, _, _, left, right in sorted(found)]


def _bpe(
    vocab: Mapping[str, int],
    merges: Sequence[Sequence[str]],
    *,
    unknown: str | None = None,
    byte_fallback: bool = False,
    ignore_merges: bool = False,
) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": byte_fallback,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": vocab,
        "merges": merges,
    }


def _beginning(bos: str, token_id: int) -> dict[str, Any]:
    """A processor that puts `bos` before a text."""
    special = {"SpecialToken": {"id": bos, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [special, first],
        "pair": [special, first, second],
        "special_tokens": {bos: {"id": bos, "ids": [token_id], "tokens": [bos]}},
    }


def _config(header: GGUFHeader, tokens: Sequence[str]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for name, key in _NAMED.items():
        token = header.get(f"tokenizer.ggml.{key}", int)
        if token is None:
            continue
        if not 0 <= token < len(tokens):
            raise GGUFError(f"{header.path.name}: tokenizer.ggml.{key} is {token}, which is none")
        config[name] = tokens[token]
    templates = {
        name: header.get(key, str)
        for name, key in (
            ("default", "tokenizer.chat_template"),
            ("tool_use", "tokenizer.chat_template.tool_use"),
        )
    }
    given = [{"name": name, "template": text} for name, text in templates.items() if text]
    if given:
        config["chat_template"] = given
    return config
