"""A tokenizer in a GGUF file encodes as the tokenizer that it was written from."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from formgate.engine.loading.gguf_file import GGUFError, read_gguf_header
from formgate.gateway.model.gguf_tokenizer import SPLITTING_RULES, gguf_tokenizer
from formgate.gateway.model.tokenizer import Tokenizer, load_fast_tokenizer
from tests.engine.loading.gguf_writing import write_gguf

CORPUS = [
    "The quick brown fox jumps over the lazy dog. Don't panic; it's 12345 o'clock!",
    "Größe, naïveté, 東京タワー, Ελλάδα, привет мир.",
    'def f(x):\n    return {"name": x, "age": 41}\n\n\n',
    "   spaces   and\ttabs \r\n windows lines  ",
    "1,234.56 + 7890 = 9124.56; 0xFF; a_b-c/d\\e",
] * 4
TEXTS = [
    *CORPUS[:5],
    "",
    " ",
    "x",
    " x",
    "  two spaces",
    "never seen: Ωmega ⅷ ☃ 𝔘 e\u0301",
    "<|im_start|>user\nHello<|im_end|>",
    "1234567890",
    "don't DON'T we'LL",
]
CONTROLS = ["<|im_start|>", "<|im_end|>"]


def read(path: Path, metadata: dict[str, Any]) -> Tokenizer:
    matrix = np.zeros((2, 32), np.float32)
    write_gguf(path / "x.gguf", "llama", metadata, {"token_embd.weight": matrix})
    layout, config = gguf_tokenizer(read_gguf_header(path / "x.gguf"))
    (path / "tokenizer.json").write_text(json.dumps(layout))
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return load_fast_tokenizer(path)


def trained(rule: str) -> tokenizers.Tokenizer:
    """A byte-level tokenizer with two control tokens at its end."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    steps = [step_of(step) for step in SPLITTING_RULES[rule]]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=alphabet, show_progress=False, special_tokens=[]
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(CONTROLS)
    return tokenizer


def step_of(step: dict[str, Any]) -> pre_tokenizers.PreTokenizer:
    match step["type"]:
        case "Digits":
            return pre_tokenizers.Digits(individual_digits=True)
        case "Split":
            return pre_tokenizers.Split(
                tokenizers.Regex(step["pattern"]["Regex"]), behavior="isolated"
            )
        case _:
            return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=step["use_regex"])


def byte_level_metadata(tokenizer: tokenizers.Tokenizer, rule: str) -> dict[str, Any]:
    layout = json.loads(tokenizer.to_str())
    tokens = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": rule,
        "tokenizer.ggml.tokens": [*tokens, "[PAD]"],
        "tokenizer.ggml.token_type": [*(3 if t in CONTROLS else 1 for t in tokens), 5],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in layout["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"),
        "tokenizer.ggml.bos_token_id": tokens.index("<|im_start|>"),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }


@pytest.mark.parametrize("rule", SPLITTING_RULES)
def test_byte_level(rule: str, tmp_path: Path) -> None:
    theirs = trained(rule)
    ours = read(tmp_path, byte_level_metadata(theirs, rule))
    for text in TEXTS:
        if rule == "qwen2" and "e\u0301" in text:
            continue  # composed first, as Qwen does
        assert ours.encode(text) == theirs.encode(text).ids, text
        assert ours.decode(ours.encode(text)) == text
    assert ours.kind == "byte_level"
    assert ours.special_ids.keys() == set(CONTROLS)
    assert ours.eos_ids == (ours.special_ids["<|im_end|>"],)
    assert ours.named_tokens["bos_token"] == "<|im_start|>"
    assert ours.chat_templates == {"default": "{{ messages[0].content }}"}
    assert "[PAD]" not in [piece.decode(errors="replace") for piece in ours.token_bytes]


def test_the_rules_split_as_the_published_tokenizers(tmp_path: Path) -> None:
    def parts(rule: str, text: str) -> list[str]:
        steps = pre_tokenizers.Sequence([step_of(step) for step in SPLITTING_RULES[rule]])
        return [text[start:end] for _, (start, end) in steps.pre_tokenize_str(text)]

    text = "We'LL see 12345 XMLParser\n\n  x!"
    assert parts("gpt-2", text) == [
        *("We", "'", "LL", " see", " 12345", " XMLParser", "\n\n ", " x", "!"),
    ]
    assert parts("smollm", "a 12") == ["a", " ", "1", "2"]
    assert parts("llama-bpe", text) == [
        *("We", "'LL", " see", " ", "123", "45", " XMLParser", "\n\n", " ", " x", "!"),
    ]
    assert parts("qwen2", "x 123") == ["x", " ", "1", "2", "3"]
    assert parts("tekken", "XMLParser isOk") == ["XMLParser", " is", "Ok"]


def test_a_text_begins_with_bos_if_the_file_says_so(tmp_path: Path) -> None:
    theirs = trained("llama-bpe")
    metadata = byte_level_metadata(theirs, "llama-bpe")
    bos = metadata["tokenizer.ggml.bos_token_id"]
    with_bos = read(tmp_path, metadata | {"tokenizer.ggml.add_bos_token": True})
    assert with_bos.encode("x") == [bos, *theirs.encode("x").ids]
    assert with_bos.encode("x", add_special_tokens=False) == theirs.encode("x").ids
    del metadata["tokenizer.ggml.add_bos_token"]
    assert read(tmp_path, metadata).encode("x")[0] == bos  # Llama 3's default


def test_an_added_token_that_is_no_control_token(tmp_path: Path) -> None:
    theirs = trained("qwen2")
    metadata = byte_level_metadata(theirs, "qwen2")
    metadata["tokenizer.ggml.tokens"][-1] = "<tool_call>"
    metadata["tokenizer.ggml.token_type"][-1] = 4
    ours = read(tmp_path, metadata)
    number = ours.size - 1
    assert ours.encode("a<tool_call>b")[1] == number
    assert number in ours.marker_ids
    assert number not in ours.skipped_ids


@pytest.fixture(scope="module")
def pieces() -> sentencepiece.SentencePieceProcessor:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["<start_of_turn>"],
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def sentencepiece_metadata(pieces: sentencepiece.SentencePieceProcessor) -> dict[str, Any]:
    def kind(i: int) -> int:
        if pieces.is_unknown(i):
            return 2
        if pieces.is_byte(i):
            return 6
        if pieces.is_control(i):
            return 3
        return 4 if pieces.id_to_piece(i) == "<start_of_turn>" else 1

    count = pieces.get_piece_size()
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [pieces.id_to_piece(i) for i in range(count)],
        "tokenizer.ggml.scores": [float(pieces.get_score(i)) for i in range(count)],
        "tokenizer.ggml.token_type": [kind(i) for i in range(count)],
        "tokenizer.ggml.bos_token_id": pieces.bos_id(),
        "tokenizer.ggml.eos_token_id": pieces.eos_id(),
        "tokenizer.ggml.unknown_token_id": pieces.unk_id(),
    }


@pytest.mark.parametrize("text", [text for text in TEXTS if text])
def test_sentencepiece(
    text: str, pieces: sentencepiece.SentencePieceProcessor, tmp_path: Path
) -> None:
    ours = read(tmp_path, sentencepiece_metadata(pieces))
    assert ours.encode(text) == [pieces.bos_id(), *pieces.encode(text)]
    assert ours.decode(ours.encode(text), skip_special_tokens=True) == text


def test_sentencepiece_without_a_space_before_the_text(
    pieces: sentencepiece.SentencePieceProcessor, tmp_path: Path
) -> None:
    metadata = sentencepiece_metadata(pieces) | {"tokenizer.ggml.add_space_prefix": False}
    ours = read(tmp_path, metadata)
    ids = ours.encode("<start_of_turn>The fox", add_special_tokens=False)
    assert ids[0] == pieces.piece_to_id("<start_of_turn>")
    assert ours.decode(ids[1:]) == "The fox"
    assert ours.token_bytes[ids[1]][:1] == b"T"
    assert ours.kind == "sentencepiece"
    assert not ours.drops_first_space


BAD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "kind": (lambda m: m.update({"tokenizer.ggml.model": "bert"}), "unsupported tokenizer bert"),
    "rule": (lambda m: m.update({"tokenizer.ggml.pre": "zeta"}), "unsupported rule zeta"),
    "no tokens": (lambda m: m.pop("tokenizer.ggml.tokens"), "has no tokenizer.ggml.tokens"),
    "no merges": (lambda m: m.pop("tokenizer.ggml.merges"), "has no tokenizer.ggml.merges"),
    "merges": (lambda m: m["tokenizer.ggml.merges"].append("Z Q"), "joins ['Z', 'Q']"),
    "types": (lambda m: m["tokenizer.ggml.token_type"].pop(), "token types for"),
    "numbers": (lambda m: m.update({"tokenizer.ggml.tokens": [1, 2]}), "holds a array"),
    "eos": (lambda m: m.update({"tokenizer.ggml.eos_token_id": 9999}), "is 9999, which is none"),
    "types of no list": (lambda m: m.update({"tokenizer.ggml.token_type": 3}), "holds a int"),
    "scores of no list": (
        lambda m: m.update({"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": 3}),
        "tokenizer.ggml.scores holds a int",
    ),
    "terminal": (lambda m: m.update({"tokenizer.ggml.model": "\n\x1b[31m"}), r"\n\x1b[31m"),
    "scores": (lambda m: m.update({"tokenizer.ggml.model": "llama"}), "no tokenizer.ggml.scores"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_tokenizer_is_one_line(name: str, tmp_path: Path) -> None:
    change, message = BAD[name]
    metadata = byte_level_metadata(trained("gpt-2"), "gpt-2")
    change(metadata)
    with pytest.raises(GGUFError, match=r"x\.gguf") as error:
        read(tmp_path, metadata)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_pieces_whose_cuts_take_for_ever_are_refused(tmp_path: Path) -> None:
    tokens = ["a" * length for length in range(1, 6000)]
    metadata = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * len(tokens),
    }
    with pytest.raises(GGUFError, match="have more than 16777216 characters"):
        read(tmp_path, metadata)
