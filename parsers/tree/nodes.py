"""The answer tree: the grammar of a model's answer, as plain JSON-serializable dicts. `constrain`
reads the same dicts; nothing here knows how they become token masks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NotRequired, TypedDict

Schema = dict[str, Any] | bool


class TextNode(TypedDict):
    kind: Literal["text"]
    value: str


class TokenNode(TypedDict):
    """One special token, matched by id. `text` is informative."""

    kind: Literal["token"]
    id: int
    text: str


class JsonNode(TypedDict):
    kind: Literal["json"]
    schema: Schema
    whitespace_pattern: NotRequired[str]
    pointer: NotRequired[str]  # JSON Pointer to the schema in the request, for errors


class JsonObjectNode(TypedDict):
    kind: Literal["json_object"]
    whitespace_pattern: NotRequired[str]


class RegexNode(TypedDict):
    """A match of `pattern` that contains none of `without`, followed by `until`: its first
    occurrence if `lazy`, otherwise its last.
    """

    kind: Literal["regex"]
    pattern: str
    without: NotRequired[list[str]]
    until: NotRequired[str]
    lazy: NotRequired[bool]
    pointer: NotRequired[str]


class LarkNode(TypedDict):
    kind: Literal["lark"]
    source: str
    in_json: NotRequired[bool]  # the text is escaped, as inside a JSON string
    pointer: NotRequired[str]


class FreeNode(TypedDict):
    """Any ordinary tokens, up to the next node's special token or the end of the answer, whose text
    contains none of `without`.
    """

    kind: Literal["free"]
    without: NotRequired[list[str]]


class FreeTextUntilNode(TypedDict):
    """Any text up to and including the first occurrence of `text`, without any of `without`."""

    kind: Literal["free_text_until"]
    text: str
    without: NotRequired[list[str]]


class SeqNode(TypedDict):
    kind: Literal["seq"]
    items: list[Node]


class ChoiceNode(TypedDict):
    kind: Literal["choice"]
    items: list[Node]


class RepeatNode(TypedDict):
    kind: Literal["repeat"]
    item: Node
    min: int
    max: int | None
    separator: NotRequired[Node]


Node = (
    TextNode
    | TokenNode
    | JsonNode
    | JsonObjectNode
    | RegexNode
    | LarkNode
    | FreeNode
    | FreeTextUntilNode
    | SeqNode
    | ChoiceNode
    | RepeatNode
)


def text(value: str) -> TextNode:
    return {"kind": "text", "value": value}


def token(token_id: int, value: str) -> TokenNode:
    return {"kind": "token", "id": token_id, "text": value}


def json_value(
    schema: Schema, *, whitespace_pattern: str | None = None, pointer: str = ""
) -> JsonNode:
    node: JsonNode = {"kind": "json", "schema": schema}
    if whitespace_pattern is not None:
        node["whitespace_pattern"] = whitespace_pattern
    if pointer:
        node["pointer"] = pointer
    return node


def json_object(whitespace_pattern: str | None = None) -> JsonObjectNode:
    if whitespace_pattern is None:
        return {"kind": "json_object"}
    return {"kind": "json_object", "whitespace_pattern": whitespace_pattern}


def regex(pattern: str, *, without: Iterable[str] = (), pointer: str = "") -> RegexNode:
    node: RegexNode = {"kind": "regex", "pattern": pattern}
    if texts := list(without):
        node["without"] = texts
    if pointer:
        node["pointer"] = pointer
    return node


def regex_until(node: RegexNode, until: str, *, lazy: bool) -> RegexNode:
    """The text of `node` and then `until`."""
    return {**node, "until": until, "lazy": lazy}


def lark(source: str, *, in_json: bool = False, pointer: str = "") -> LarkNode:
    node: LarkNode = {"kind": "lark", "source": source}
    if in_json:
        node["in_json"] = True
    if pointer:
        node["pointer"] = pointer
    return node


def free(without: Iterable[str] = ()) -> FreeNode:
    texts = list(without)
    return {"kind": "free", "without": texts} if texts else {"kind": "free"}


def free_text_until(value: str, without: Iterable[str] = ()) -> FreeTextUntilNode:
    node: FreeTextUntilNode = {"kind": "free_text_until", "text": value}
    if texts := list(without):
        node["without"] = texts
    return node


def seq(items: Iterable[Node]) -> Node:
    """Concatenate nodes. Nested sequences are flattened and adjacent texts joined."""
    flat: list[Node] = []
    for item in items:
        for part in item["items"] if item["kind"] == "seq" else [item]:
            last = flat[-1] if flat else None
            if part["kind"] == "text" and last is not None and last["kind"] == "text":
                flat[-1] = text(last["value"] + part["value"])
            elif part != EMPTY:
                flat.append(part)
    if len(flat) == 1:
        return flat[0]
    return {"kind": "seq", "items": flat} if flat else EMPTY


def choice(items: Iterable[Node]) -> Node:
    alternatives = list(items)
    assert alternatives
    if len(alternatives) == 1:
        return alternatives[0]
    return {"kind": "choice", "items": alternatives}


def optional(item: Node) -> Node:
    return {"kind": "repeat", "item": item, "min": 0, "max": 1}


def repeat(item: Node, least: int, most: int | None, separator: Node | None = None) -> Node:
    if least == most == 1:
        return item
    node: RepeatNode = {"kind": "repeat", "item": item, "min": least, "max": most}
    if separator is not None and separator != EMPTY:
        node["separator"] = separator
    return node


def with_pointers(node: Node) -> Iterator[tuple[str, Node]]:
    """The parts that have a pointer, which compile on their own, each behind it."""
    match node["kind"]:
        case "json" | "regex" | "lark":
            if "pointer" in node:
                yield node["pointer"], node
        case "seq" | "choice":
            for item in node["items"]:
                yield from with_pointers(item)
        case "repeat":
            yield from with_pointers(node["item"])


EMPTY: TextNode = {"kind": "text", "value": ""}
