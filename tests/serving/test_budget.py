"""Token budgets on a real server: an answer that is closed in time is valid and says so, and a
budget that no answer fits into is refused before anything is generated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jsonschema
import pytest

pytestmark = pytest.mark.serve

NOTES = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "pattern": "^[a-z ]{3,}$"},
        "notes": {"type": "array", "items": {"type": "string"}, "minItems": 2},
    },
    "required": ["title", "notes"],
    "additionalProperties": False,
}
LONG = {"type": "string", "minLength": 400}
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture
def http(server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


def body(path: str, **fields: Any) -> dict[str, Any]:
    prompt = "Write down the notes of the meeting."
    if path == CHAT:
        return {"messages": [{"role": "user", "content": prompt}], **fields}
    return {"prompt": prompt, **fields}


def text_of(choice: dict[str, Any]) -> str:
    message = choice.get("message") or choice.get("delta")
    return (choice.get("text") if message is None else message.get("content")) or ""


def answers(http: httpx.Client, path: str, **fields: Any) -> list[tuple[str, dict[str, Any]]]:
    """The text and the last choice object of each choice."""
    response = http.post(path, json=body(path, **fields))
    assert response.status_code == 200, response.text
    if not fields.get("stream"):
        return [(text_of(choice), choice) for choice in response.json()["choices"]]
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: {")]
    found: dict[int, tuple[str, dict[str, Any]]] = {}
    for choice in (choice for line in lines for choice in json.loads(line)["choices"]):
        before = found.get(choice["index"], ("", {}))[0]
        found[choice["index"]] = (before + text_of(choice), choice)
    return list(found.values())


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("budget", [28, 40])
def test_an_answer_is_closed_within_its_budget(http, path: str, stream: bool, budget: int) -> None:
    """Two hot answers, one of which at least would go on for longer."""
    found = answers(
        http,
        path,
        structured_outputs={"json": NOTES, "close_within_budget": True},
        max_tokens=budget,
        temperature=1.5,
        seed=3,
        n=2,
        stream=stream,
    )
    assert len(found) == 2
    for text, choice in found:
        jsonschema.validate(json.loads(text), NOTES)
        closed = choice.get("closed_within_budget", False)
        assert choice["finish_reason"] == ("length" if closed else "stop")
    assert any(choice.get("closed_within_budget") for _, choice in found)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(
    ("path", "param"),
    [(CHAT, "max_tokens"), (CHAT, "max_completion_tokens"), (COMPLETIONS, "max_tokens")],
)
@pytest.mark.parametrize("close", [False, True])
def test_a_budget_that_no_answer_fits_into(
    http, path: str, param: str, n: int, stream: bool, close: bool
) -> None:
    outputs = {"json": LONG, "close_within_budget": close}
    fields = {"structured_outputs": outputs, param: 5, "n": n, "stream": stream}
    response = http.post(path, json=body(path, **fields))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("max_tokens_too_small", param)
    [(text, _)] = answers(http, path, max_tokens=4, structured_outputs={"choice": ["yes"]})
    assert text == "yes"


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_an_answer_may_be_cut_where_the_client_allows_it(http, path: str) -> None:
    outputs = {"json": LONG, "allow_truncated_json": True}
    [(text, choice)] = answers(http, path, max_tokens=5, structured_outputs=outputs)
    assert choice["finish_reason"] == "length"
    assert text.startswith('"')


def test_a_server_may_cut_answers_unless_the_client_forbids_it(
    serve: Callable[..., Any],
) -> None:
    with httpx.Client(base_url=serve("--allow-truncated-json").url, timeout=120) as http:
        [(_, choice)] = answers(http, CHAT, max_tokens=5, json_schema=LONG)
        assert choice["finish_reason"] == "length"
        fields = {"structured_outputs": {"json": LONG, "allow_truncated_json": False}}
        response = http.post(CHAT, json=body(CHAT, max_tokens=5, **fields))
        assert response.json()["error"]["code"] == "max_tokens_too_small"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_budget_that_only_the_shortest_answer_fits_into(http, stream: bool) -> None:
    """An instance that is found at once, here an integer, does not settle what fits."""
    schema = {"type": ["integer", "array"], "minimum": 10**30, "maxItems": 0}
    fields = {"structured_outputs": {"json": schema}, "stream": stream}
    [(text, _)] = answers(http, CHAT, max_tokens=12, **fields)
    assert text == "[]" or text.isdigit()
    response = http.post(CHAT, json=body(CHAT, max_tokens=1, **fields))
    assert response.json()["error"]["code"] == "max_tokens_too_small"
