"""Reads the fields of a structural tag, and says what is wrong with them and where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

ErrorCode = Literal["invalid_grammar", "unsupported_schema", "schema_too_complex"]
Path = tuple[str | int, ...]

JSON_FIRST = frozenset('{["-0123456789tfn')  # what a JSON text may begin with


class StructuralTagError(ValueError):
    """The structural tag is none, or cannot be enforced exactly. `pointer` is the JSON Pointer of
    the offending place in it.
    """

    def __init__(self, message: str, *, code: ErrorCode, pointer: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code: ErrorCode = code
        self.pointer = pointer


def wrong(path: Path, why: str) -> StructuralTagError:
    return _error(path, why, "invalid_grammar")


def unsupported(path: Path, why: str) -> StructuralTagError:
    return _error(path, why, "unsupported_schema")


def _error(path: Path, why: str, code: ErrorCode) -> StructuralTagError:
    where = f"{pointer_of(path)} " if path else ""
    return StructuralTagError(
        f"In the structural tag: {where or 'it '}{why}.", code=code, pointer=pointer_of(path)
    )


def pointer_of(path: Path) -> str:
    """RFC 6901: `~` is `~0` and `/` is `~1` inside a part."""
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
    """Of two texts that may come, the longer is looked for as long as it may still come: a tag
    whose beginning goes on as the content of another would take that one's place.
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
    """Likewise of a separator and what comes behind all tags."""
    rest = then[len(separator) :] if then.startswith(separator) else ""
    if separator and rest and any(begin.startswith(rest[0]) for begin in begins):
        raise unsupported(
            (*path, "separator"),
            f"begins as {then!r:.60} behind the tags, and a tag as what is left of that",
        )
