"""The one error that a constraint can be refused with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, Self

ConstraintCode = Literal[
    "unsupported_schema", "invalid_schema", "schema_too_complex", "invalid_grammar"
]


class ConstraintError(ValueError):
    """The constraint cannot be enforced exactly, and is therefore refused.

    `pointer` is the JSON Pointer (RFC 6901) of the offending place in the schema, "" for its root
    and for constraints without a schema. `keyword` is the JSON Schema keyword at fault, if known.
    """

    def __init__(
        self,
        message: str,
        *,
        code: ConstraintCode,
        pointer: str = "",
        keyword: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code: ConstraintCode = code
        self.pointer = pointer
        self.keyword = keyword

    @classmethod
    def at(
        cls,
        path: Iterable[str | int],
        why: str,
        *,
        code: ConstraintCode = "unsupported_schema",
        keyword: str | None = None,
    ) -> Self:
        """The error of a place in a schema. `why` completes "In the keyword ... at ...: "."""
        pointer = pointer_of(path)
        what = f"the keyword {keyword!r} at" if keyword else "the schema at"
        return cls(
            f"In {what} {pointer or 'the root'}: {why}.",
            code=code,
            pointer=pointer,
            keyword=keyword,
        )


class SelfReferenceError(ConstraintError):
    """A schema that refers to itself before it reads a value."""


class Unplaced(ConstraintError):
    """An error without a pointer, raised below the level at which places in the schema are known. A
    caller that knows the place replaces it with `placed`. `keywords`: the candidates to blame, the
    likeliest first.
    """

    def __init__(self, why: str, *, keywords: Sequence[str], code: ConstraintCode) -> None:
        super().__init__(f"In the schema: {why}.", code=code, keyword=keywords[0])
        self.why = why
        self.keywords = tuple(keywords)


def pointer_of(path: Iterable[str | int]) -> str:
    """The JSON Pointer of a path (RFC 6901): `~` is written `~0`, and `/` is written `~1`."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
