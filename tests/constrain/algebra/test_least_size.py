"""Schemas whose values are too large to be written are refused by keyword and pointer, soon."""

from __future__ import annotations

from typing import Any

import pytest

from formgate.constrain.algebra.least_size import MAX_FORCED
from formgate.constrain.errors import ConstraintError

STRING = {"type": "string"}
NULL = {"type": "null"}


def chain(depth: int, leaf: Any, link: Any) -> dict[str, Any]:
    """Each definition is `link` of a reference to the next."""
    definitions = {f"d{at}": link({"$ref": f"#/$defs/d{at + 1}"}) for at in range(depth)}
    return {"$ref": "#/$defs/d0", "$defs": definitions | {f"d{depth}": leaf}}


def members(*names: str, required: bool = True) -> Any:
    return lambda ref: {
        "type": "object",
        "properties": dict.fromkeys(names, ref),
        "required": list(names) if required else [],
        "additionalProperties": False,
    }


LINKS: dict[str, tuple[Any, str]] = {
    "two members": (members("a", "b"), "required"),
    "three members": (members("a", "b", "c"), "required"),
    "items": (lambda ref: {"type": "array", "items": ref, "minItems": 2}, "minItems"),
    "two first items": (
        lambda ref: {"type": "array", "prefixItems": [ref, ref], "minItems": 2},
        "minItems",
    ),
    "branches": (lambda ref: {"anyOf": [members("a", "b")(ref), members("c", "d")(ref)]}, "anyOf"),
}


@pytest.mark.parametrize("leaf", [STRING, NULL, {"const": "x"}], ids=str)
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("depth", [25, 60, 180])
@pytest.mark.parametrize("in_tool", [False, True])
def test_doubling_references(masks, link: str, leaf: Any, depth: int, in_tool: bool) -> None:
    made, keyword = LINKS[link]
    tree: Any = {"kind": "json", "schema": chain(depth, leaf, made)}
    if in_tool:
        call = [{"kind": "free_text_until", "text": "<call>"}, tree]
        tree = {"kind": "choice", "items": [{"kind": "regex", "pattern": "[^<]*"}, seq(call)]}
    with pytest.raises(ConstraintError) as caught:
        masks.start(tree)
    assert caught.value.code == "schema_too_complex"
    assert caught.value.keyword in (keyword, "required")
    assert caught.value.pointer.startswith("/$defs/d")
    assert caught.value.pointer.endswith(f"/{caught.value.keyword}")


def seq(items: list[Any]) -> dict[str, Any]:
    return {"kind": "seq", "items": items}


@pytest.mark.parametrize(
    "schema",
    [
        chain(8, NULL, members("a", "b")),
        chain(60, STRING, members("a", "b", required=False)),
        chain(100, STRING, members("a")),
        chain(60, STRING, lambda ref: {"type": "array", "items": ref}),
        {"type": "array", "items": STRING, "minItems": 5_000},
        {"type": "array", "items": {"const": "x"}, "minItems": 1_000},
        {"type": "object", "properties": {"next": {"$ref": "#"}}},
        {"type": "array", "items": members("a", "b")(STRING), "minItems": MAX_FORCED},
    ],
    ids=lambda schema: str(schema)[:50],
)
def test_what_can_be_written_is_not_refused(masks, schema: Any) -> None:
    constraint = masks.start({"kind": "json", "schema": schema})
    for token_id in constraint.forced_tokens():
        constraint.accept(token_id)
    assert masks.allowed(constraint)


def test_what_is_forced_in_a_row_has_a_limit(masks) -> None:
    schema = {"type": "array", "items": {"const": "x"}, "minItems": MAX_FORCED}
    with pytest.raises(ConstraintError, match="in a row") as caught:
        masks.start({"kind": "json", "schema": schema})
    assert (caught.value.keyword, caught.value.pointer) == ("minItems", "/minItems")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pattern_that_nothing_matches_is_refused_before_the_first_token(masks, wrapped) -> None:
    schema: Any = {"type": "string", "pattern": "^(?=^b)(?!^b)[ab]$"}
    if wrapped:
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    with pytest.raises(ConstraintError, match="no value"):
        masks.start({"kind": "json", "schema": schema})
