"""Reads the fields of a structural tag, and says what is wrong with them and where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from formgate.constrain.errors import ConstraintCode, ConstraintError, pointer_of

Path = tuple[str | int, ...]


def wrong(path: Path, why: str) -> ConstraintError:
    return _error(path, why, "invalid_grammar")


def unsupported(path: Path, why: str) -> ConstraintError:
    return _error(path, why, "unsupported_schema")


def _error(path: Path, why: str, code: ConstraintCode) -> ConstraintError:
    where = f"{pointer_of(path)} " if path else ""
    return ConstraintError(
        f"In the structural tag: {where or 'it '}{why}.", code=code, pointer=pointer_of(path)
    )


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
