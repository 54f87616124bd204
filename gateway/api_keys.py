"""API keys: validation, lookup of a request's key, and a cache salt for each key, so that clients
of different keys share no prefix cache.
"""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.datastructures import Headers


def wrong_key(key: str) -> str | None:
    """The reason why no client can send this key, or None. Does not quote the key."""
    if not key.strip():
        return "a key is empty (is a variable not set?)"
    if key != key.strip():
        return "a key begins or ends with white space"
    if not all(character.isprintable() for character in key):
        return "a key holds a character that no header can carry"
    return None


@dataclass(frozen=True)
class ApiKey:
    """`name` is for logs. `forms` are the key's encodings in a header: UTF-8, and Latin-1, which
    HTTP prescribes."""

    name: str
    forms: tuple[bytes, ...] = field(repr=False)
    salted: bool = True

    def matches(self, given: bytes) -> bool:
        # Compares every form, so that the time reveals nothing about a near match.
        found = [hmac.compare_digest(given, form) for form in self.forms]
        return any(found)

    def cache_salt(self, given: str | None) -> str | None:
        """The salt `given` by the client, made distinct for each key: neither the time to first
        token nor `cached_tokens` reveals the prompts of another key's clients."""
        if not self.salted:
            return given
        text = b"" if given is None else b"+" + given.encode()
        return hmac.digest(self.forms[0], b"formgate cache salt" + text, "sha256").hex()


class KeyRing:
    def __init__(self, keys: Sequence[str]) -> None:
        """A single key adds no salt: all clients share the prefix cache."""
        distinct = dict.fromkeys(keys)
        self._keys = [
            ApiKey(f"key#{number}", _forms(key), salted=len(distinct) > 1)
            for number, key in enumerate(distinct, 1)
        ]

    def find(self, headers: Headers) -> ApiKey | None:
        given = given_key(headers)
        found = [key for key in self._keys if key.matches(given)]  # no early exit: see `matches`
        return found[0] if found else None


def given_key(headers: Headers) -> bytes:
    """The key in a request's headers, or empty bytes."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip().encode("latin-1")
    return headers.get("x-api-key", "").strip().encode("latin-1")


def _forms(key: str) -> tuple[bytes, ...]:
    forms = [key.encode("utf-8")]
    with contextlib.suppress(UnicodeEncodeError):
        forms.append(key.encode("latin-1"))
    return tuple(dict.fromkeys(forms))
