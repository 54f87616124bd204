from __future__ import annotations

import json
from pathlib import Path

import pytest

from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.model.tokenizer_folder import load_tokenizer

TEXTS = [
    "Hello, world!",
    " leading and trailing ",
    "你好，世界 \U0001f600 naïve",
    "a\n\n  b\tc",
    "</s>[TOOL_CALLS] typed",
]


@pytest.mark.parametrize("text", TEXTS)
def test_plain_text_comes_back_and_holds_no_special_token(
    any_tokenizer: Tokenizer, text: str
) -> None:
    ids = any_tokenizer.encode_plain(text)
    assert not any_tokenizer.marker_ids & set(ids)
    assert any_tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", TEXTS)
def test_encoded_bytes_spell_exactly_what_was_asked(any_tokenizer: Tokenizer, text: str) -> None:
    whole = text.encode()
    for piece in (whole, whole[1:], whole[:-1], b"\xe4\xbd", b""):
        ids = any_tokenizer.encode_bytes(piece)
        assert b"".join(any_tokenizer.token_bytes[i] for i in ids) == piece
        assert not any_tokenizer.marker_ids & set(ids)


def test_text_after_a_special_token_is_encoded_as_in_the_whole(any_tokenizer: Tokenizer) -> None:
    whole = any_tokenizer.encode("[INST]Hello, world![/INST]", add_special_tokens=False)
    alone = any_tokenizer.encode_plain("Hello, world!", continues=True)
    assert whole[1:-1] == alone


def test_vocabulary_holds_every_byte_and_the_special_ids(any_tokenizer: Tokenizer) -> None:
    vocabulary = any_tokenizer.vocabulary()
    assert {bytes([byte]) for byte in range(256)} <= set(vocabulary.token_bytes)
    assert vocabulary.special_ids == set(any_tokenizer.special_ids.values())
    assert vocabulary.eos_ids == (2,)
    assert vocabulary.token_bytes[2] == b"</s>"


def test_special_ids_and_named_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.special_ids["[TOOL_CALLS]"] == 9
    assert tokenizer.named_tokens["bos_token"] == "<s>"
    assert tokenizer.encode("a")[0] == 1
    assert tokenizer.decode([1, *tokenizer.encode_plain("ab"), 2], skip_special_tokens=True) == "ab"


def test_markers_that_a_model_calls_ordinary_are_still_matched_by_id(
    model_dir: Path, tmp_path: Path
) -> None:
    """Qwen declares <tool_call> and <think> as added tokens that are not special."""
    layout = json.loads((model_dir / "tokenizer.json").read_text())
    for token in layout["added_tokens"]:
        token["special"] = token["content"] not in ("<think>", "</think>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(layout))
    tokenizer = load_tokenizer(tmp_path)
    think = tokenizer.special_ids["<think>"]
    assert think not in tokenizer.skipped_ids
    assert think in tokenizer.encode("<think>", add_special_tokens=False)
    assert think not in tokenizer.encode_plain("<think>")
    assert tokenizer.decode(tokenizer.encode_plain("<think>")) == "<think>"


def test_a_broken_or_missing_tokenizer_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot read tokenizer\.json"):
        load_tokenizer(tmp_path)
