"""Every kind of constraint, under each of its names, whole and streamed, on the embedded model:
what comes back is checked without the engine that made it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.serve

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"enum": [30, 31]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
LARK = 'start: "SELECT " COLUMN ("," COLUMN)? ";"\nCOLUMN: /[a-c]/'
GBNF = 'root ::= pair | "(" root ")"\npair ::= word "ing"\nword ::= [gin]{1,5}'
TAG = {"begin": "<p>", "schema": PERSON, "end": "</p>"}
LEGACY = {"type": "structural_tag", "structures": [TAG], "triggers": ["<p"]}
CALL = {"type": "tag", "begin": "<p>",
        "content": {"type": "json_schema", "json_schema": PERSON}, "end": "</p>"}  # fmt: skip
NEWER = {
    "type": "structural_tag",
    "format": {
        "type": "triggered_tags",
        "triggers": ["<p"],
        "tags": [CALL],
        "at_least_one": True,
        "stop_after_first": True,
    },
}


def is_person(text: str) -> bool:
    value = json.loads(text)
    return list(value) == ["name", "age"] and len(value["name"]) <= 12 and value["age"] in (30, 31)


def is_wide_person(text: str) -> bool:
    """White space between the parts is the pattern's."""
    wide = re.search(r'"name"\n {2}:\n {2}".*"\n {2},\n {2}"age"\n {2}:\n {2}3', text, re.DOTALL)
    return is_person(text) and wide is not None


def is_object(text: str) -> bool:
    return isinstance(json.loads(text), dict)


def holds_persons(text: str) -> bool:
    """Free text, in which every beginning of a tag is the beginning of a whole one."""
    rest = re.sub(r"<p>(.*?)</p>", lambda found: "" if is_person(found[1]) else "<p", text)
    return "<p" not in rest


def is_tagged_person(text: str) -> bool:
    found = re.fullmatch(r"<p>(.*)</p>", text)
    return found is not None and is_person(found[1])


def matches(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text) is not None


SELECT = matches("SELECT [a-c](,[a-c])?;")
NESTED = matches(r"(\(*)[gin]{1,5}ing\)*")
SCHEMA_FORMAT = {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}}
LINE_AND_SPACES = r"\n {2}"

KINDS: list[tuple[dict[str, Any], Callable[[str], bool]]] = [
    ({"response_format": SCHEMA_FORMAT}, is_person),
    ({"response_format": {"type": "json_object"}}, is_object),
    ({"response_format": {"type": "json_object", "schema": PERSON}}, is_person),
    ({"response_format": {"type": "json_schema", "schema": PERSON}}, is_person),
    ({"structured_outputs": {"json": PERSON}}, is_person),
    ({"structured_outputs": {"json": json.dumps(PERSON)}}, is_person),
    ({"structured_outputs": {"json": PERSON, "whitespace_pattern": LINE_AND_SPACES}},
     is_wide_person),
    ({"structured_outputs": {"json_object": True}}, is_object),
    ({"response_format": SCHEMA_FORMAT,
      "structured_outputs": {"whitespace_pattern": LINE_AND_SPACES}}, is_wide_person),
    ({"structured_outputs": {"json": PERSON, "whitespace_pattern": r"\s?"}}, is_person),
    ({"structured_outputs": {"regex": "[a-f]{3,5}-[0-9]{2}"}}, matches("[a-f]{3,5}-[0-9]{2}")),
    ({"structured_outputs": {"choice": ["yes", "no", "never"]}}, matches("yes|no|never")),
    ({"structured_outputs": {"grammar": LARK}}, SELECT),
    ({"structured_outputs": {"grammar": GBNF}}, NESTED),
    ({"structured_outputs": {"structural_tag": LEGACY}}, holds_persons),
    ({"structured_outputs": {"structural_tag": json.dumps(NEWER)}}, is_tagged_person),
    ({"response_format": LEGACY}, holds_persons),
    ({"response_format": NEWER}, is_tagged_person),
    ({"guided_json": PERSON, "guided_decoding_backend": "xgrammar"}, is_person),
    ({"guided_json": PERSON, "guided_whitespace_pattern": LINE_AND_SPACES}, is_wide_person),
    ({"guided_regex": r"\d{3}/\d{2}"}, matches(r"\d{3}/\d{2}")),
    ({"guided_choice": ["left", "right"]}, matches("left|right")),
    ({"guided_grammar": LARK}, SELECT),
    ({"guided_grammar": GBNF}, NESTED),
    ({"json_schema": PERSON}, is_person),
    ({"json_schema": json.dumps(PERSON)}, is_person),
    ({"grammar": GBNF}, NESTED),
    ({"ebnf": GBNF}, NESTED),
    ({"regex": "[a-f]{3,5}-[0-9]{2}"}, matches("[a-f]{3,5}-[0-9]{2}")),
    ({"structural_tag": json.dumps(NEWER)}, is_tagged_person),
    ({"format": PERSON}, is_person),
    ({"format": "json"}, is_object),
    ({"response_format": {"type": "json", "value": PERSON}}, is_person),
    ({"response_format": {"type": "regex", "value": "[a-f]{3,5}"}}, matches("[a-f]{3,5}")),
    ({"response_format": {"type": "grammar", "grammar": GBNF}}, NESTED),
    ({"response_format": {"type": "json_schema", "json_schema": PERSON}}, is_person),
]  # fmt: skip


def kind_name(fields: dict[str, Any]) -> str:
    return "-".join(
        f"{name}.{next(iter(value))}" if isinstance(value, dict) else name
        for name, value in fields.items()
    )


@pytest.mark.parametrize(("fields", "right"), KINDS, ids=[kind_name(f) for f, _ in KINDS])
def test_each_kind_whole_and_streamed(
    server, fields: dict[str, Any], right: Callable[[str], bool]
) -> None:
    body = {
        "messages": [{"role": "user", "content": "Tell me about John Smith, who is 30."}],
        "temperature": 1.0,
        "seed": 7,
        "max_tokens": 120,
        **fields,
    }
    whole = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120)
    assert whole.status_code == 200, whole.text
    choice = whole.json()["choices"][0]
    streamed, finish = "", None
    with httpx.stream(
        "POST", f"{server.url}/v1/chat/completions", json={**body, "stream": True}, timeout=120
    ) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                delta = json.loads(line[6:])["choices"][0]
                streamed += delta["delta"].get("content") or ""
                finish = delta["finish_reason"] or finish
    assert streamed == choice["message"]["content"]
    assert finish == choice["finish_reason"]
    check(fields, right, streamed, finish)


def check(
    fields: dict[str, Any], right: Callable[[str], bool], text: str, finish: str | None
) -> None:
    """Whatever the model says: nested brackets, free text and members of any name may go on."""
    if finish == "stop":
        assert right(text), text
    else:
        assert finish == "length"
        assert right in (is_object, holds_persons, NESTED), "only these may be of any length"


def test_completions_take_the_same_fields(server) -> None:
    kinds = [kind for kind in KINDS if "json" not in kind_name(kind[0])]
    for fields, right in kinds[1:5] + kinds[-4:]:
        body = {"prompt": "Answer: ", "max_tokens": 100, "temperature": 0.8, "seed": 3, **fields}
        answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        choice = answer.json()["choices"][0]
        check(fields, right, choice["text"], choice["finish_reason"])


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"structured_outputs": {"grammar": 'root ::= "a'}}, "structured_outputs.grammar", "line 1"),
    ({"guided_grammar": "root ::= x"}, "guided_grammar", "'x'"),
    ({"guided_grammar": "start: nothing"}, "guided_grammar", "nothing"),
    ({"guided_regex": "(a"}, "guided_regex", ""),
    ({"guided_choice": []}, "guided_choice", "empty"),
    ({"guided_json": "{"}, "guided_json", "JSON"),
    ({"structured_outputs": {"json": {"type": "strin"}}}, "structured_outputs.json#/type", ""),
    ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs.choice", "one"),
    ({"response_format": SCHEMA_FORMAT, "guided_regex": "a"}, "guided_regex", "one"),
    ({"response_format": {"type": "structural_tag"}}, "response_format#/structures", "missing"),
    ({"response_format": {**LEGACY, "triggers": ["<q"]}},
     "response_format#/structures/0/begin", "triggers"),
    ({"structured_outputs": {"structural_tag": {"format": {"type": "qwen_xml_parameter"}}}},
     "structured_outputs.structural_tag#/format/type", "qwen_xml_parameter"),
    ({"structured_outputs": {"structural_tag":
        {"format": {**CALL, "content": {"type": "json_schema", "json_schema": {"type": "x"}}}}}},
     "structured_outputs.structural_tag#/format/content/json_schema/type", ""),
    ({"structured_outputs": {"structural_tag": {"format": {**CALL, "content":
        {"type": "regex", "pattern": "(a"}}}}},
     "structured_outputs.structural_tag#/format/content/pattern", ""),
    ({"structured_outputs": {"choice": ["a"], "whitespace_pattern": " "}},
     "structured_outputs.whitespace_pattern", "JSON"),
    ({"structured_outputs": {"json": PERSON, "whitespace_pattern": " ?x?"}},
     "structured_outputs.whitespace_pattern", "other text"),
    ({"guided_json": PERSON, "guided_whitespace_pattern": "(["}, "guided_whitespace_pattern", ""),
    ({"guided_json": PERSON, "guided_whitespace_pattern": " ",
      "structured_outputs": {"whitespace_pattern": " "}}, "guided_whitespace_pattern", "one"),
    ({"guided_grammar": "start: A\nA: /([/"}, "guided_grammar", "line 2"),
    ({"response_format": {"type": "json_schema", "json_schema": {"type": "strin"}}},
     "response_format.json_schema#/type", ""),
    ({"response_format": {"type": "json", "value": {"type": "strin"}}},
     "response_format.value#/type", ""),
    ({"json_schema": {"type": "strin"}}, "json_schema#/type", ""),
    ({"grammar": "root ::= x"}, "grammar", "'x'"),
    ({"structured_outputs": {"grammar": "no grammar"}}, "structured_outputs.grammar", "start"),
]  # fmt: skip


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_the_end_of_the_sequence_is_no_part_of_an_answer(server, ignore_eos: bool) -> None:
    """Not with `skip_special_tokens: false` either, which shows the others. Where one choice begins
    another, only that token tells that the answer ends.
    """
    body = {"prompt": "Well?", "guided_choice": ["yes", "yes!", "yes!!"], "n": 4, "temperature": 2}
    body |= {"skip_special_tokens": False, "ignore_eos": ignore_eos, "logit_bias": {"2": 20}}
    answer = httpx.post(f"{server.url}/v1/completions", json=body).json()
    for choice in answer["choices"]:
        assert choice["text"] in body["guided_choice"]
        assert choice["finish_reason"] == "stop"
    server.wait_until_idle()
    assert server.metric("formgate:structured_answers_invalid_total") == 0


@pytest.mark.parametrize(("fields", "param", "says"), BAD, ids=[param for _, param, _ in BAD])
def test_a_bad_constraint_is_a_400_that_names_its_field(
    server, fields: dict[str, Any], param: str, says: str
) -> None:
    for stream in (False, True):
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": stream, **fields}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["param"] == param, error
        assert says in error["message"], error
