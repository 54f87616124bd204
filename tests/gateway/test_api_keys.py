"""API keys: which are refused at the start, how a request carries one, and what a key salts."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from formgate.gateway.answers.caller import Caller
from formgate.gateway.api_keys import KeyRing, wrong_key
from formgate.gateway.serving.flags import parse_serve


def ring_finds(ring: KeyRing, header: str, value: bytes) -> str | None:
    key = ring.find(Headers(raw=[(header.encode(), value)]))
    return key.name if key else None


@pytest.mark.parametrize("key", ["", " ", "\t\n", " k", "k\n", "a\nb", "a\x00b", "a\u2028b"])
def test_a_key_that_nobody_can_send(key: str) -> None:
    reason = wrong_key(key)
    assert reason is not None
    assert not key.strip() or key.strip() not in reason.split()


@pytest.mark.parametrize("key", ["k", "sk-abc_DEF", "a b", "schlüssel", "ключ", "🔑"])
def test_a_key_of_any_script(key: str) -> None:
    assert wrong_key(key) is None
    ring = KeyRing(["first", key])
    assert ring_finds(ring, "x-api-key", key.encode()) == "key#2"
    assert ring_finds(ring, "authorization", b"Bearer " + key.encode()) == "key#2"
    assert ring_finds(ring, "authorization", b"Basic " + key.encode()) is None
    assert ring_finds(ring, "x-api-key", key.encode() + b"x") is None
    assert ring_finds(ring, "x-api-key", b"") is None


@pytest.mark.parametrize(
    "words",
    [
        *(["--api-key", ""], ["--api-key", "k", ""], ["--api-key", " "], ["--api-key", "k\n"]),
        *(["--api-key", "[]"], ["--api-key", '["k", ""]'], ["--api-key"], ["--api-key="]),
    ],
)
def test_an_empty_key_is_an_error_at_the_start(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_serve(words, prog="formgate serve")
    assert stop.value.code == 2
    assert "--api-key: " in capsys.readouterr().err


def test_the_key_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "of-the-environment")
    assert parse_serve([], prog="").server.api_key == ("of-the-environment",)
    assert parse_serve(["--api-key", "k"], prog="").server.api_key == ("k",)
    monkeypatch.setenv("VLLM_API_KEY", "")
    with pytest.raises(SystemExit):
        parse_serve([], prog="")
    assert "a key is empty" in capsys.readouterr().err


def test_metrics_cannot_be_protected_without_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_serve(["--protect-metrics"], prog="")
    assert "--api-key" in capsys.readouterr().err


def salt(keys: list[str], key: str, given: str | None = None) -> str | None:
    found = KeyRing(keys).find(Headers(raw=[(b"x-api-key", key.encode())]))
    assert found is not None
    return Caller(key=found).cache_salt(given)


def test_each_of_several_keys_has_a_prefix_cache_of_its_own() -> None:
    keys = ["a", "b"]
    salts = [salt(keys, key, given) for key in keys for given in (None, "s", "t")]
    assert len(set(salts)) == 6
    assert salts == [salt(keys, key, given) for key in keys for given in (None, "s", "t")]
    # No request can name the salt of another key's.
    assert salt(keys, "b", salt(keys, "a")) != salt(keys, "a")


def test_clients_of_one_key_share_as_if_there_were_none() -> None:
    assert salt(["a"], "a") is None
    assert salt(["a", "a"], "a") is None
    assert salt(["a"], "a", "s") == "s"
    assert Caller().cache_salt("s") == "s"
    assert Caller().cache_salt(None) is None
