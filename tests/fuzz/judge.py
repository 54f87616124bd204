"""Which answers are wrong whatever was asked: a status, a shape or a message that no client should
see, and an answer that breaks its constraint.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jsonschema_rs

from tests.fuzz.bodies import Case

STATUSES = frozenset({200, 307, 400, 404, 405, 413, 429, 503})
# Where the server was not started to answer.
OFF = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter"})
MOST_CHARS = 4_000  # of an error as a whole
MESSAGE_CHARS = 500
# Names from inside, which tell a client nothing.
INTERNALS = re.compile(
    r"NoExtensionBias|<non-verbose|limit 50000|ff_tokens|pydantic|Traceback|\bFile \"|llguidance|"
    r"object at 0x|formgate\.|site-packages|jsonschema|NoneType|object has no attribute|msgspec|"
    r"re\.error|derivre|lark_error|thread '|panicked|unwrap\(\)|\bRust\b|orjson|KeyError|TypeError|"
    r"function-after|lax-or-strict"
)
WHOLE_BODY = "The body of the request "
BACKTRACK_LIMIT = 100_000


@dataclass(frozen=True)
class Answer:
    """`status` 0: none came, and `text` says why."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def events(self) -> list[str]:
        lines = self.text.split("\n")
        return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def wrong(case: Case, answer: Answer) -> Iterator[str]:
    """Kinds of what is wrong, each a short text that does not depend on the case."""
    if not answer.status:
        if not case.abandoned:
            yield f"no answer: {answer.text}"
        return
    if answer.status not in STATUSES and not (answer.status == 403 and case.path in OFF):
        yield f"status {answer.status} of {case.path}"
    if case.method == "HEAD" or (answer.status == 200 and not answer.text):
        return
    if answer.status >= 400:
        if answer.status == 503 and case.path in ("/health", "/ready", "/ping"):
            return
        yield from _wrong_error(case, answer)
    elif answer.is_stream:
        yield from _wrong_stream(case, answer)
    elif answer.headers.get("content-type", "").startswith("application/json"):
        try:
            whole = json.loads(answer.text)
        except ValueError:
            yield "200 that is no JSON"
            return
        if case.path == "/v1/schema/check" and (found := INTERNALS.search(answer.text)) is not None:
            yield f"a report that tells of {found[0]!r}"
        if case.path == "/v1/chat/completions":
            yield from _wrong_contents(case, whole, answer.headers.get("x-formgate-unenforced", ""))


def _wrong_error(case: Case, answer: Answer) -> Iterator[str]:
    try:
        body = json.loads(answer.text)
        error = body["error"]
        message = error["message"]
    except (ValueError, TypeError, KeyError):
        yield f"{answer.status} without an error object"
        return
    yield from _wrong_error_object(body, anthropic=case.path.startswith("/v1/messages"))
    if len(answer.text) > MOST_CHARS:
        yield f"{answer.status} with a large body"
    if (found := INTERNALS.search(message)) is not None:
        yield f"{answer.status} that tells of {found[0]!r}"
    if answer.status == 503 and error.get("code") == "engine_died":
        yield "the engine died"
    if (
        answer.status == 400
        and error.get("param", "anthropic") is None
        and not message.startswith((WHOLE_BODY, "Invalid body"))
    ):
        yield f"400 that names no field: {re.sub(r'[0-9]+', '0', message)[:80]}"


def _wrong_error_object(body: Mapping[str, Any], *, anthropic: bool) -> Iterator[str]:
    error = body["error"]
    expected = {"type", "message", "details"} if anthropic else {"message", "type", "param", "code"}
    if set(error) != expected or (anthropic and body.get("type") != "error"):
        yield f"an error with the fields {sorted(error)}"
    if (
        not isinstance(error["message"], str)
        or not 3 < len(error["message"]) <= MESSAGE_CHARS + 200
    ):
        yield "an error with an empty or a long message"
    if not isinstance(error.get("type"), str):
        yield "an error without a type"
    if len(str(error.get("param"))) > MESSAGE_CHARS:
        yield "an error with a long param"


def _wrong_stream(case: Case, answer: Answer) -> Iterator[str]:
    events = answer.events
    if not events:
        yield "a stream without events"
        return
    if case.path in ("/v1/chat/completions", "/v1/completions") and events[-1] != "[DONE]":
        yield "a stream that does not end with [DONE]"
    for text in events:
        if text == "[DONE]":
            continue
        try:
            event = json.loads(text)
        except ValueError:
            yield "an event that is no JSON"
            return
        error = event.get("error") or event.get("response", {}).get("error")
        if event.get("type") == "error":
            error = error or event
        if error:
            yield f"an error in a stream: {error.get('code')}: {error.get('message', '')[:60]}"


def _wrong_contents(case: Case, whole: Mapping[str, Any], unenforced: str) -> Iterator[str]:
    """Of a chat: content under its `json_schema`, and arguments under their tool's schema, except
    of tools that the header says are not enforced in full."""
    body = case.body
    if not isinstance(body, dict):
        return
    response_format = body.get("response_format") or {}
    tools = {
        tool["function"]["name"]: tool["function"].get("parameters", True)
        for tool in body.get("tools") or ()
    }
    for choice in whole.get("choices", ()):
        if choice["finish_reason"] not in ("stop", "tool_calls"):
            continue
        message = choice["message"]
        for call in message.get("tool_calls") or ():
            function = call["function"]
            if function["name"] not in tools:
                yield "a call of no tool"
            elif f"tool={function['name']};" in unenforced:
                continue
            elif invalid(function["arguments"], tools[function["name"]]):
                yield "arguments that their schema forbids"
        if (
            response_format.get("type") == "json_schema"
            and not message.get("tool_calls")
            and not body.get("stop")
            and invalid(message["content"] or "", response_format["json_schema"].get("schema", {}))
        ):
            yield "content that its schema forbids"


def invalid(text: str, schema: Any) -> bool:
    """What cannot be checked is not called invalid. References may double at each level."""
    if '"$ref"' in json.dumps(schema):
        return False
    try:
        value = json.loads(text)
    except ValueError:
        return True
    except RecursionError:
        return False
    try:
        options = jsonschema_rs.FancyRegexOptions(backtrack_limit=BACKTRACK_LIMIT)
        validator = jsonschema_rs.validator_for(
            schema, pattern_options=options, validate_formats=True
        )
        return not validator.is_valid(value)
    except ValueError:
        return False
