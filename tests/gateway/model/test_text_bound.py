"""What is refused before it is encoded, and that nothing else is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formgate.gateway.errors import ApiError
from formgate.gateway.model import tokenizer as tokenizer_module
from formgate.gateway.model.stop_strings import StopAutomaton
from formgate.gateway.model.text_bound import MIN_COUNTED_BYTES, bound_of_count, bound_of_prompt
from formgate.gateway.model.tokenizer import Tokenizer

CONTEXT = 2_048


class Counted:
    """A tokenizer's backend that counts the characters it encodes."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.characters = 0

    def encode(self, text: str, **options: Any) -> Any:
        self.characters += len(text)
        return self._backend.encode(text, **options)

    def encode_batch_fast(self, texts: list[str], **options: Any) -> Any:
        self.characters += sum(map(len, texts))
        return self._backend.encode_batch_fast(texts, **options)


def refused(check: Callable[[], None]) -> ApiError:
    with pytest.raises(ApiError) as error:
        check()
    return error.value


def test_more_bytes_than_the_longest_tokens_have_are_refused_unseen(tokenizer: Tokenizer) -> None:
    backend = Counted(tokenizer.backend)
    counted = replace(tokenizer, backend=backend)
    bound = bound_of_prompt(CONTEXT, counted)
    text = "x" * (CONTEXT * counted.longest + 1)
    error = refused(lambda: bound.check([text], counted, "prompt"))
    assert (error.status, error.param, error.code) == (400, "prompt", "context_length_exceeded")
    assert backend.characters == 0


def test_a_text_of_too_many_tokens_is_refused_when_enough_are_seen(tokenizer: Tokenizer) -> None:
    backend = Counted(tokenizer.backend)
    counted = replace(tokenizer, backend=backend, token_bytes=(*tokenizer.token_bytes, b" " * 1000))
    bound = bound_of_prompt(CONTEXT, counted)
    text = "zq9 " * 400_000
    error = refused(lambda: bound.check([text], counted, "messages"))
    assert error.code == "context_length_exceeded"
    assert 0 < backend.characters < len(text) // 4


@pytest.mark.parametrize("name", ["tokenizer", "sentencepiece"])
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_no_text_that_fits_is_refused(
    name: str, data: st.DataObject, request: pytest.FixtureRequest
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    words = st.sampled_from(
        ["weather ", "Paris", "    ", "\n\n", "é", "你好", "<s>", "x" * 40, "{"]
    )
    text = "".join(data.draw(st.lists(words, max_size=300)))
    length = len(tokenizer.encode(text))
    if length:
        bound_of_prompt(length, tokenizer).check([text], tokenizer, "prompt")


def test_a_text_that_is_truncated_or_counted_may_be_longer_than_the_context(
    tokenizer: Tokenizer,
) -> None:
    text = "x" * MIN_COUNTED_BYTES
    bound_of_prompt(CONTEXT, tokenizer, truncate=5).check([text], tokenizer, "prompt")
    bound_of_count(CONTEXT).check([text], tokenizer, "prompt")
    bound_of_count(None).check([text], tokenizer, "prompt")
    error = refused(lambda: bound_of_count(None).check([text + "x"], tokenizer, "prompt"))
    assert (error.status, error.param) == (400, "prompt")
    assert str(MIN_COUNTED_BYTES) in error.message


@given(st.lists(st.sampled_from(["<s>", "</s>", "<", "[INST", "]", "</think>", "x"]), max_size=80))
@settings(deadline=None)
def test_a_search_in_windows_finds_what_one_search_finds(parts: list[str]) -> None:
    names = ["<s>", "</s>", "[INST]", "[INST", "</think>"]
    pattern = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
    text = "".join(parts)

    class Searched:
        marker_pattern = pattern
        longest = max(map(len, names))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_module, "_SEARCHED_AT_ONCE", 3)
        found = list(Tokenizer.find_markers(Searched(), text))  # type: ignore[arg-type]
    assert [m.span() for m in found] == [m.span() for m in pattern.finditer(text)]


@pytest.mark.parametrize("long", [100, 10_000])
def test_long_texts_are_encoded_and_decoded_as_short_ones(
    any_tokenizer: Tokenizer, long: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "Hello <s>, world! 你好 \n\n  é" * (long // 20)
    one_way = (any_tokenizer.encode(text), any_tokenizer.encode_plain(text, continues=True))
    decoded = any_tokenizer.decode(one_way[0])
    monkeypatch.setattr(tokenizer_module, "_LONG", 0 if long == 100 else 1 << 30)
    assert one_way == (any_tokenizer.encode(text), any_tokenizer.encode_plain(text, continues=True))
    assert decoded == any_tokenizer.decode(one_way[0])


def test_stop_strings_take_memory_of_their_length() -> None:
    automaton = StopAutomaton(["x" * 100_000, "x" * 50_000 + "y"])
    assert len(automaton.next) == 1 + 100_000 + 1
