"""Reads the fields of a structural tag. Errors name the fault and its JSON Pointer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

ErrorCode = Literal["invalid_grammar", "unsupported_schema", "schema_too_complex"]
Path = tuple[str | int, ...]

JSON_FIRST = frozenset('{["-0123456789tfn')  # first characters of a JSON text


class StructuralTagError(ValueError):
    """The structural tag is malformed, or cannot be enforced exactly. `pointer` is the JSON Pointer
    to the fault in it.
    """

    def __init__(self, message: str, *, code: ErrorCode, pointer: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code: ErrorCode = code
        self.pointer = pointer


def wrong(path: Path, why: str) -> StructuralTagError:
    """The error for a malformed tag. `why` completes a sentence about the place at `path`."""
    return _error(path, why, "invalid_grammar")


def unsupported(path: Path, why: str) -> StructuralTagError:
    """The error for a well-formed tag that cannot be enforced exactly."""
    return _error(path, why, "unsupported_schema")


def _error(path: Path, why: str, code: ErrorCode) -> StructuralTagError:
    where = f"{pointer_of(path)} " if path else ""
    return StructuralTagError(
        f"In the structural tag: {where or 'it '}{why}.", code=code, pointer=pointer_of(path)
    )


def pointer_of(path: Path) -> str:
    """The JSON Pointer (RFC 6901) of a path."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def check_object(value: Any, path: Path) -> None:
    if not isinstance(value, dict):
        raise wrong(path, "must be an object")


def check_fields(value: Mapping[str, Any], path: Path, known: frozenset[str]) -> None:
    for name in value:
        if name not in known:
            raise unsupported((*path, name[:60]), "is not supported")


def string(value: Mapping[str, Any], name: str, path: Path) -> str:
    text = value.get(name)
    if not isinstance(text, str):
        raise wrong((*path, name), "is missing" if text is None else "must be a string")
    return text


def flag(value: Mapping[str, Any], name: str, path: Path) -> bool:
    found = value.get(name, False)
    if not isinstance(found, bool):
        raise wrong((*path, name), "must be true or false")
    return found


def items(value: Mapping[str, Any], name: str, path: Path) -> list[Any]:
    found = value.get(name)
    if not isinstance(found, list) or not found:
        raise wrong((*path, name), "is missing" if found is None else "must be a non-empty list")
    return found


def strings(value: Mapping[str, Any], name: str, path: Path) -> list[str]:
    found = items(value, name, path)
    for i, item in enumerate(found):
        if not isinstance(item, str) or not item:
            raise wrong((*path, name, i), "must be a string that is not empty")
    return list(dict.fromkeys(found))


def excluded_texts(value: Mapping[str, Any], path: Path) -> list[str]:
    return [
        text
        for name in ("excluded_str", "excluded_strs", "excludes")
        if value.get(name)
        for text in strings(value, name, path)
    ]


def schema_of(value: Any, path: Path) -> Any:
    if not isinstance(value, dict | bool):
        raise wrong(path, "must be a JSON Schema")
    return value


def check_begins(tags: Sequence[tuple[Path, str, Any, str]]) -> None:
    """Raise if a tag's `begin` is another's `begin` plus characters that the other's content may
    start with. The lexer prefers the longer text, so the shorter tag could not have that content.
    """
    ordered = sorted(tags, key=lambda tag: tag[1])
    for i, (_, begin, content, _) in enumerate(ordered):
        is_json = not isinstance(content, dict) or content.get("type") == "json_schema"
        for path, longer, _, _ in ordered[i + 1 :]:
            if not longer.startswith(begin):
                break
            if longer != begin and (not is_json or longer[len(begin)] in JSON_FIRST):
                raise unsupported(
                    (*path, "begin"),
                    f"goes on where the content of the tag that begins {begin!r:.60} would begin",
                )


def check_separator(separator: str, then: str, begins: Iterable[str], path: Path) -> None:
    """Raise if the separator is a prefix of `then`, the text after all tags, and a tag may start
    with the rest of `then`: the lexer would prefer `then`.
    """
    rest = then[len(separator) :] if then.startswith(separator) else ""
    if separator and rest and any(begin.startswith(rest[0]) for begin in begins):
        raise unsupported(
            (*path, "separator"),
            f"is a prefix of {then!r:.60} behind the tags, and a tag begins with the rest",
        )
