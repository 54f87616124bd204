from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formgate.gateway.model.detokenizer import Detokenizer
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.parsers.text.events import Piece

TEXT = "Hello, world! 你好，世界。\U0001f600\U0001f468‍\U0001f469 naïve  two  spaces\n"


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_token_by_token_is_the_whole_text_and_never_half_a_character(
    any_tokenizer: Tokenizer,
) -> None:
    ids = any_tokenizer.encode_plain(TEXT)
    detokenizer = Detokenizer(any_tokenizer, at_start=True)
    said = ""
    for token_id in ids:
        said += text_of(detokenizer.feed([token_id]))
        assert TEXT.startswith(said)
    assert said + text_of(detokenizer.finish()) == TEXT == any_tokenizer.decode(ids)


def test_any_ids_cut_anywhere_are_decoded_as_at_once(tokenizer: Tokenizer) -> None:
    random.seed(5)
    for _ in range(200):
        ids = [random.randrange(tokenizer.size) for _ in range(30)]
        detokenizer = Detokenizer(tokenizer, skip_special_tokens=False)
        cut = sorted(random.sample(range(31), 4))
        parts = [ids[a:b] for a, b in zip([0, *cut], [*cut, 30], strict=True)]
        pieces = [piece for part in parts for piece in detokenizer.feed(part)]
        assert text_of(pieces + detokenizer.finish()) == tokenizer.decode(ids)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40), burst=st.integers(1, 5))
def test_any_text_survives(any_text_tokenizers: list[Tokenizer], text: str, burst: int) -> None:
    for tokenizer in any_text_tokenizers:
        ids = tokenizer.encode_plain(text)
        detokenizer = Detokenizer(tokenizer, at_start=True)
        pieces = [
            piece
            for start in range(0, len(ids), burst)
            for piece in detokenizer.feed(ids[start : start + burst])
        ]
        assert text_of(pieces + detokenizer.finish()) == text


@pytest.fixture(scope="session")
def any_text_tokenizers(tokenizer: Tokenizer, sentencepiece: Tokenizer) -> list[Tokenizer]:
    return [tokenizer, sentencepiece]


def test_special_tokens_are_pieces_of_their_own_or_left_out(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a[TOOL_CALLS]b</s>c", add_special_tokens=False)
    assert Detokenizer(tokenizer).feed(ids) == [Piece("abc")]
    assert Detokenizer(tokenizer, markers={9}).feed(ids) == [
        Piece("a"),
        Piece("[TOOL_CALLS]", 9),
        Piece("bc"),
    ]
    shown = Detokenizer(tokenizer, skip_special_tokens=False).feed(ids)
    assert text_of(shown) == "a[TOOL_CALLS]b</s>c"
    assert [piece.special_id for piece in shown] == [None, 9, None, 2, None]


def test_a_character_cut_by_a_marker_or_the_end_is_shown_as_lost(tokenizer: Tokenizer) -> None:
    half = tokenizer.encode_bytes("你".encode()[:2])
    detokenizer = Detokenizer(tokenizer, markers={9})
    assert detokenizer.feed(half) == []
    assert detokenizer.feed([9]) == [Piece("\ufffd"), Piece("[TOOL_CALLS]", 9)]
    assert detokenizer.feed(half) == []
    assert detokenizer.finish() == [Piece("\ufffd")]


def test_the_first_space_belongs_to_a_continuation_only(sentencepiece: Tokenizer) -> None:
    ids = sentencepiece.encode_plain("Hello")
    assert text_of(Detokenizer(sentencepiece, at_start=True).feed(ids)) == "Hello"
    assert text_of(Detokenizer(sentencepiece).feed(ids)) == " Hello"


def test_padded_ids_have_no_text(tokenizer: Tokenizer) -> None:
    assert Detokenizer(tokenizer).feed([tokenizer.size + 3]) == []
