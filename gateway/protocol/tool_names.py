"""Tool names as a model writes them. Formats carry letters, digits, `_`, `-` and dots; clients also
name tools `files/read` or `mcp:search`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

_OTHER = re.compile(r"[^A-Za-z0-9_.\-]")
_MAX_CHARS = 128


class ToolNames:
    """The way from a request's tool names to those that the model writes, and back."""

    def __init__(self, given: Iterable[str]) -> None:
        """Names that become equal get a suffix, so that each leads back to its own."""
        names = list(given)
        taken = {name for name in names if _OTHER.search(name) is None}
        self._written: dict[str, str] = {}
        for name in names:
            if name in taken:
                continue
            plain = _OTHER.sub("_", name)
            short = plain
            digest = name.encode()
            while plain in taken:  # a tool may be named as another's suffix makes it, too
                digest = hashlib.sha256(digest).digest()
                suffix = "_" + digest.hex()[:8]
                plain = short[: _MAX_CHARS - len(suffix)] + suffix
            taken.add(plain)
            self._written[name] = plain
        self._given = {plain: name for name, plain in self._written.items()}

    @property
    def all_as_given(self) -> bool:
        """True if the model writes every name as the client does."""
        return not self._written

    def written(self, name: str) -> str:
        """The name for the model, also of a tool that is no longer offered."""
        return self._written.get(name) or _OTHER.sub("_", name)

    def given(self, name: str) -> str:
        """The client's name for one that the model wrote."""
        return self._given.get(name, name)


AS_GIVEN = ToolNames(())
