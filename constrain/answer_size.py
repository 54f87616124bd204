"""The shortest answer that a tree allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from formgate.constrain.grammar_layout import Layout
from formgate.constrain.json_schema import shortest_instance
from formgate.constrain.shortest import Shortest, terminal_text


def shortest_answer(node: Mapping[str, Any], token_bytes: Sequence[bytes]) -> Shortest:
    """Of grammars and of free text nothing is known: they count as empty. Raises
    ConstraintError.
    """
    match node["kind"]:
        case "text":
            return _of_text(node["value"])
        case "token":
            return _of_text(token_bytes[node["id"]].decode("utf-8", "replace"))
        case "json":
            return shortest_instance(node["schema"], Layout(node.get("whitespace_pattern")))
        case "json_object":
            return _of_text("{}")
        case "regex":
            text = terminal_text(f"/(?:{_slashed(node['pattern'])})/") or ""
            return _of_text(text + node.get("until", ""))
        case "free_text_until":
            return _of_text(node["text"])
        case "seq":
            parts = [shortest_answer(item, token_bytes) for item in node["items"]]
            return _joined(parts)
        case "choice":
            parts = [shortest_answer(item, token_bytes) for item in node["items"]]
            return Shortest(
                min((part.text for part in parts), key=len),
                max(part.largest_part for part in parts),
                _endings_of(parts),
            )
        case "repeat":
            item = shortest_answer(node["item"], token_bytes)
            return Shortest(item.text * node["min"], item.largest_part, item.endings)
    return Shortest("", 0)


def _of_text(text: str) -> Shortest:
    return Shortest(text, len(text.encode()))


def _joined(parts: Sequence[Shortest]) -> Shortest:
    text = "".join(part.text for part in parts)
    largest_part = max([len(text.encode()), *(part.largest_part for part in parts)])
    return Shortest(text, largest_part, _endings_of(parts))


def _endings_of(parts: Sequence[Shortest]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(ending for part in parts for ending in part.endings))


def _slashed(pattern: str) -> str:
    return pattern.removeprefix("^").removesuffix("$").replace("/", r"\/")
