"""API keys: which are sound, which one a request carries, and what keeps the clients of one from
learning what those of another have asked.
"""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.datastructures import Headers


def wrong_key(key: str) -> str | None:
    """Why no client could send this key, without telling the key."""
    if not key.strip():
        return "a key is empty (is a variable not set?)"
    if key != key.strip():
        return "a key begins or ends with white space"
    if not all(character.isprintable() for character in key):
        return "a key holds a character that no header can carry"
    return None


@dataclass(frozen=True)
class ApiKey:
    """`name` is for logs. `forms` are the bytes of a header that holds it: clients send UTF-8 or,
    if they follow the letter of HTTP, Latin-1."""

    name: str
    forms: tuple[bytes, ...] = field(repr=False)
    salted: bool = True

    def matches(self, given: bytes) -> bool:
        # Each form is compared, so the time tells nothing about which one was near.
        found = [hmac.compare_digest(given, form) for form in self.forms]
        return any(found)

    def cache_salt(self, given: str | None) -> str | None:
        """Another for each key, so that neither the time to the first token nor `cached_tokens`
        tells what the clients of another key have asked."""
        if not self.salted:
            return given
        text = b"" if given is None else b"+" + given.encode()
        return hmac.digest(self.forms[0], b"formgate cache salt" + text, "sha256").hex()


class KeyRing:
    def __init__(self, keys: Sequence[str]) -> None:
        """Where there is one key only, all its clients share the prefix cache as if there were
        none."""
        distinct = dict.fromkeys(keys)
        self._keys = [
            ApiKey(f"key#{number}", _forms(key), salted=len(distinct) > 1)
            for number, key in enumerate(distinct, 1)
        ]

    def find(self, headers: Headers) -> ApiKey | None:
        given = given_key(headers)
        found = [key for key in self._keys if key.matches(given)]  # all are compared
        return found[0] if found else None


def given_key(headers: Headers) -> bytes:
    """The key that a request carries, or nothing."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip().encode("latin-1")
    return headers.get("x-api-key", "").strip().encode("latin-1")


def _forms(key: str) -> tuple[bytes, ...]:
    forms = [key.encode("utf-8")]
    with contextlib.suppress(UnicodeEncodeError):
        forms.append(key.encode("latin-1"))
    return tuple(dict.fromkeys(forms))
