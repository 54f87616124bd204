"""The shortest answer of an answer tree, and a short one that costs little to find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from formgate.constrain.algebra.quick_instance import quick_instance
from formgate.constrain.grammar.shortest import Shortest, terminal_text
from formgate.constrain.grammar.terminal_samples import longest_suffix
from formgate.constrain.rules.grammar_builder import Spacing
from formgate.constrain.rules.json_schema import ReadSchemas, shortest_instance


def shortest_answer(
    node: Mapping[str, Any], token_bytes: Sequence[bytes], read: ReadSchemas
) -> Shortest:
    """Return the shortest answer that the tree allows. Grammars and free text count as empty.
    Raises ConstraintError.
    """
    match node["kind"]:
        case "text":
            return _of_text(node["value"])
        case "token":
            return _of_text(token_bytes[node["id"]].decode("utf-8", "replace"))
        case "json":
            return shortest_instance(node["schema"], Spacing(node.get("whitespace_pattern")), read)
        case "json_object":
            return _of_text("{}")
        case "regex":
            terminal = f"/(?:{_slashed(node['pattern'])})/"
            until = node.get("until", "")
            text = (terminal_text(terminal) or "") + until
            return Shortest(text, max(len(text.encode()), longest_suffix(terminal) + len(until)))
        case "free_text_until":
            return _of_text(node["text"])
        case "seq":
            parts = [shortest_answer(item, token_bytes, read) for item in node["items"]]
            return _joined(parts)
        case "choice":
            parts = [shortest_answer(item, token_bytes, read) for item in node["items"]]
            texts = sorted((part.text for part in parts), key=len)
            settled = len(texts[-1].encode()) - len(texts[0].encode())
            return Shortest(
                texts[0],
                settled + max(part.largest_part for part in parts),
                _endings_of(parts),
            )
        case "repeat":
            item = shortest_answer(node["item"], token_bytes, read)
            more = len(item.text.encode())
            return Shortest(item.text * node["min"], more + item.largest_part, item.endings)
    return Shortest("", 0)


def quick_answer(node: Mapping[str, Any], read: ReadSchemas) -> str | None:
    """Return a short instance if the tree is a single schema, otherwise None. It may be invalid:
    the caller checks it against the grammar. Raises ConstraintError.
    """
    if node["kind"] != "json":
        return None
    resources, _ = read.of(node["schema"])
    spaced = node.get("whitespace_pattern") is None
    return quick_instance(resources, *((", ", ": ") if spaced else (",", ":")))


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
