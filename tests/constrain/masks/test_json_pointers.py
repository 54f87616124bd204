"""The pointer of every token of a JSON text, however it is cut into tokens."""

from __future__ import annotations

import json
from random import Random

import pytest

from formgate.constrain.masks.json_position import JsonPointers

TEXT = '{"name": "J", "a/b": [1, {"~": null}, []], "é\\"": -2.5e3, "o": {}}'


def test_single_tokens() -> None:
    tokens = [
        ('{"', ""), ("name", ""), ('": "', "/name"), ("J", "/name"), ('", "', ""), ("a/b", ""),
        ('": ', "/a~1b"), ("[", "/a~1b"), ("1", "/a~1b/0"), (", ", "/a~1b"), ('{"', "/a~1b/1"),
        ("~", "/a~1b/1"), ('": null', "/a~1b/1/~0"), ("}", "/a~1b/1"), (", [", "/a~1b/2"),
        ("]", "/a~1b/2"), ("]", "/a~1b"), (', "é\\""', ""), (": -2", '/é"'), (".5e3", '/é"'),
        (', "o": ', "/o"), ("{}", "/o"), ("}", ""),
    ]  # fmt: skip
    assert "".join(token for token, _ in tokens) == TEXT
    pointers = JsonPointers()
    assert [(token, pointers.feed(token.encode())) for token, _ in tokens] == tokens


@pytest.mark.parametrize(
    "text", [TEXT, "[[], [[1], 2]]", '"x"', "12", "[ 1 ,\n 2 ]", '{ "a" : 1 }']
)
def test_the_cut_does_not_matter(text: str) -> None:
    """A token has the pointer of its last byte, and every pointer is one of the value's own."""
    pointers = JsonPointers()
    data = text.encode()
    by_byte = [pointers.feed(data[i : i + 1]) for i in range(len(data))]
    r = Random(1)
    for _ in range(30):
        cuts = sorted({*r.sample(range(1, len(data) + 1), min(3, len(data))), len(data)})
        pointers, start = JsonPointers(), 0
        for cut in cuts:
            assert pointers.feed(data[start:cut]) == by_byte[cut - 1]
            start = cut
    for pointer in set(by_byte):
        value = json.loads(text)
        for step in pointer.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            value = value[int(name)] if isinstance(value, list) else value[name]
