"""Requests that were made to hurt: each gets its own right answer, and the server serves on. What
was wrong with one is told beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.fuzz.bodies import DIGITS, Case, encode
from tests.fuzz.judge import Answer, invalid, wrong
from tests.fuzz.watch import children

pytestmark = pytest.mark.serve

FORMATS = {"oneOf": [{"format": "ipv4"}, {"format": "hostname"}]}
MANY = [f"{n:018}" for n in range(90_000)]

CHAT, COMPLETIONS, CHECK = "/v1/chat/completions", "/v1/completions", "/v1/schema/check"
ANSWERED, REFUSED, EITHER = {200}, {400}, {200, 400}


def under(schema: Any, **fields: Any) -> dict[str, Any]:
    named = {"name": "answer", "schema": schema}
    return asked(response_format={"type": "json_schema", "json_schema": named}, **fields)


def asked(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "x"}], "max_tokens": 100} | fields


def member(schema: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A value that has an end is asked for."""
    schema = {"maxLength": 12, "type": "string"} | schema
    whole = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return under(whole | {"additionalProperties": False}, **fields)


def doubling(levels: int, kind: str) -> dict[str, Any]:
    """Each definition asks twice for the next one."""

    def level(at: int) -> dict[str, Any]:
        next_one = {"$ref": f"#/$defs/d{at + 1}"}
        if kind == "allOf":
            return {"allOf": [next_one, next_one]}
        members = {"type": "object", "properties": {"a": next_one, "b": next_one}}
        return members | {"required": ["a", "b"], "additionalProperties": False}

    definitions = {f"d{at}": level(at) for at in range(levels)}
    definitions[f"d{levels}"] = {"type": "string", "maxLength": 3}
    return {"$ref": "#/$defs/d0", "$defs": definitions}


def tool(schema: Any, **fields: Any) -> dict[str, Any]:
    function = {"name": "f", "parameters": schema}
    return asked(tools=[{"type": "function", "function": function}], **fields)


PYDANTIC_DECIMAL = r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"
SLOW = {
    "type": "string",
    "const": "a" * 40 + "c",
    "pattern": "^(?:(?:a|aa)+b|a+c)$",
}

COUNTS_OF_RULES = 'start: a{1000}\na: b{1000}\nb: "x"{1000}'
ALTERNATIVES = "start: " + " | ".join(f'"{n}"' for n in range(60_000))
HARD_TO_REPEAT = {
    "type": "array",
    "items": {"type": "string", "pattern": "^(?:[^/]+/)*a+$"},
    "minItems": 5,
    "uniqueItems": True,
}

CASES: list[tuple[str, str, dict[str, Any], set[int]]] = [
    # A `^` inside a look-ahead was lost, and with it the look-ahead.
    ("a decimal of pydantic", CHAT, member({"pattern": PYDANTIC_DECIMAL}), ANSWERED),
    ("not ^a", CHAT, member({"pattern": "^(?!^a)[ab]{1,3}$"}, temperature=1, n=4), ANSWERED),
    ("ahead ^b", CHAT, member({"pattern": "^(?=^b)[ab]$"}), EITHER),
    ("ahead ^b alone", CHAT, asked(structured_outputs={"regex": "^(?=^b)[ab]$"}), EITHER),
    ("ahead ^b checked", CHECK, {"schema": {"pattern": "^(?=^b)[ab]$"}}, ANSWERED),
    # What Python's `re` cannot read was a 500 when the answer was validated.
    ("letters", CHAT, member({"pattern": r"^\p{L}{1,8}$"}), ANSWERED),
    ("a script", CHAT, member({"pattern": r"^\p{Script=Greek}{0,3}$"}), ANSWERED),
    ("a class in a range", CHAT, member({"pattern": r"^[\d-z]{1,3}$"}), EITHER),
    ("^+", CHAT, member({"pattern": "^+[a-z]$"}), EITHER),
    ("^{2}", CHAT, member({"pattern": "^{2}times$"}), EITHER),
    ("^*", CHAT, member({"pattern": "^*"}), EITHER),
    ("a doubling tool", CHAT, tool(doubling(40, "members"), tool_choice="required"), REFUSED),
    # It took 2^40 steps, with the lock of the interpreter held.
    ("a slow pattern", CHAT, under(SLOW, temperature=0), EITHER),
    ("allOf of allOf", CHAT, under(doubling(40, "allOf")), EITHER),
    (
        "two formats",
        CHAT,
        member(FORMATS),
        ANSWERED,
    ),
    # An enum of 2 MB was rendered and encoded while everybody waited.
    (
        "a tool with a large enum",
        CHAT,
        tool({"enum": MANY}),
        REFUSED,
    ),
    # llguidance's own words, or a 500.
    ("a grammar without an end", CHAT, asked(guided_grammar='start: start "a"'), REFUSED),
    ("a count beyond its limits", CHAT, asked(guided_grammar='start: "a"{100000}'), REFUSED),
    ("a count of no number", CHAT, asked(guided_grammar='start: "a"{99999999999}'), REFUSED),
    ("counts of rules", CHAT, asked(guided_grammar=COUNTS_OF_RULES), REFUSED),
    ("a deep grammar", CHAT, asked(guided_grammar=f"start: {'(' * 5000}"), REFUSED),
    ("many alternatives", CHAT, asked(guided_grammar=ALTERNATIVES), REFUSED),
    (
        "no short answer to close with",
        CHAT,
        asked(structured_outputs={"json": HARD_TO_REPEAT, "close_within_budget": True}),
        REFUSED,
    ),
    ("counts of counts", CHAT, asked(guided_regex="(a{1,1000}){1,1000}" * 20), EITHER),
    # Fields without a limit.
    ("a stop string of 1 MB", CHAT, asked(stop=["x" * 1_000_000]), REFUSED),
    ("a million stop tokens", CHAT, asked(stop_token_ids=[7] * 1_000_000), REFUSED),
    ("wrong tokens", COMPLETIONS, {"prompt": [-1] * 500_000}, REFUSED),
    (
        "words times prompts",
        COMPLETIONS,
        {"prompt": ["a"] * 256, "bad_words": [f"w{n}" for n in range(500)], "max_tokens": 1},
        EITHER,
    ),
    ("an integer of 4,300 digits", CHAT, asked(max_tokens=f"{DIGITS}4300"), REFUSED),
    ("one of 5,000", CHAT, asked(seed=f"{DIGITS}5000"), REFUSED),
    ("one echoed", "/v1/responses", {"input": "x", "metadata": {"a": 10**30}}, EITHER),
    ("a long text to encode", "/tokenize", {"prompt": "<think>" * 100_000}, EITHER),
    # A schema beside `json_object` was ignored.
    (
        "json_object with a schema",
        CHAT,
        asked(
            response_format={
                "type": "json_object",
                "schema": {
                    "type": "object",
                    "properties": {"name": {"enum": ["Ada"]}, "age": {"enum": [36]}},
                    "required": ["name", "age"],
                    "additionalProperties": False,
                },
            }
        ),
        ANSWERED,
    ),
]


@pytest.fixture(scope="module")
def http(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


def schema_of(body: dict[str, Any]) -> Any:
    asked = body.get("response_format", {})
    return asked.get("schema") or asked.get("json_schema", {}).get("schema")


@pytest.mark.parametrize(
    ("path", "body", "statuses"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_hostile_request_gets_its_own_answer(
    http: httpx.Client, server: Any, path: str, body: dict[str, Any], statuses: set[int]
) -> None:
    parents = children(server.process.pid)
    case = Case("POST", path, encode(body))
    response = http.post(path, content=case.content)
    assert response.status_code in statuses, response.text[:500]
    answer = Answer(response.status_code, response.headers, response.text)
    assert list(wrong(case, answer)) == []
    if response.status_code == 200 and (schema := schema_of(body)) is not None:
        for choice in response.json()["choices"]:
            assert choice["finish_reason"] == "stop"
            assert not invalid(choice["message"]["content"], schema)
    assert http.get("/health").status_code == 200
    assert children(server.process.pid) == parents


def test_nothing_is_left_of_them(http: httpx.Client, server: Any) -> None:
    server.wait_until_idle()
    assert server.metric("vllm:kv_cache_usage_perc") == 0
    answer = http.post(CHAT, json=asked(temperature=0, max_tokens=4))
    assert answer.status_code == 200
