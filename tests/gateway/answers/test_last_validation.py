"""The last validation of finished answers: what it finds, what it does not know, and that nothing
waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from formgate.constrain.answer_check import UNCHECKED_REASONS, UncheckedReason
from formgate.constrain.errors import ConstraintError
from formgate.gateway.answers import last_validation
from formgate.gateway.answers.answer_checks import Promise
from formgate.gateway.answers.answer_fold import AnswerFold
from formgate.gateway.answers.last_validation import LastValidation
from formgate.gateway.answers.tool_choice import NO_TOOLS, CallableTool, ToolUse
from formgate.gateway.errors import compiler_unavailable
from formgate.gateway.metrics import Metrics
from formgate.gateway.processes.compile_workers import TOO_LARGE, TOO_LONG, WorkerFailed
from formgate.gateway.protocol.content_constraint import ContentConstraint
from formgate.parsers.text.events import ContentDelta, ToolCallArguments, ToolCallStart

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
F = CallableTool("f", SCHEMA, "tools[0].function.parameters")
BACKTRACKS = r"((a|aa)+)\1b"  # for ever, on many an `a`


def folded(content: str = "", *calls: tuple[str, str]) -> AnswerFold:
    fold = AnswerFold()
    if content:
        fold.add(ContentDelta(content))
    for i, (name, arguments) in enumerate(calls):
        fold.add(ToolCallStart(i, name, str(i)))
        fold.add(ToolCallArguments(i, arguments))
    return fold


def content(kind: Any, value: Any = None) -> ContentConstraint:
    return ContentConstraint(kind, value, "x")


def count(metrics: Metrics, name: str, **labels: str) -> float:
    labels |= {"model_name": "tiny", "engine": "0"}
    found = metrics.registry.get_sample_value(f"formgate:structured_answers_{name}_total", labels)
    assert found is not None
    return found


def outcome(metrics: Metrics) -> str:
    """Of the one answer that was looked at: `valid`, `invalid`, or why it was not checked."""
    unchecked = {reason: count(metrics, "unchecked", reason=reason) for reason in UNCHECKED_REASONS}
    found = [reason for reason, times in unchecked.items() if times]
    if count(metrics, "invalid"):
        found.append("invalid")
    elif count(metrics, "checked"):
        found.append("valid")
    assert len(found) == 1, found
    return found[0]


def validate(
    check: Callable[[str, str], Awaitable[str]],
    metrics: Metrics,
    answers: Sequence[tuple[Promise, AnswerFold]],
) -> None:
    async def main() -> None:
        validation = LastValidation(check, metrics)
        for promise, answer in answers:
            validation.begin(promise, answer)
        await validation.idle()

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.parametrize(
    ("promise", "answer", "expected"),
    [
        (Promise(None, ToolUse("auto", (F,))), folded("x"), "valid"),
        (Promise(None, ToolUse("required", (F,))), folded("x"), "invalid"),
        (Promise(None, ToolUse("auto", (F,))), folded("", ("f", '{"a": 1}')), "valid"),
        (Promise(None, ToolUse("auto", (F,))), folded("", ("f", '{"a": "1"}')), "invalid"),
        (Promise(None, ToolUse("auto", (F,))), folded("", ("f", '{"a": 1')), "invalid"),
        (Promise(None, ToolUse("auto", (F,))), folded("", ("g", "{}")), "invalid"),
        (
            Promise(None, ToolUse("auto", (F,), parallel=False)),
            folded("", ("f", '{"a": 1}'), ("f", '{"a": 1}')),
            "invalid",
        ),
        (
            Promise(None, ToolUse("auto", (F,))),
            folded("", ("f", '{"a": 1}'), ("f", '{"a": []}')),
            "invalid",
        ),
        (Promise(content("json", SCHEMA)), folded('{"a": 1}'), "valid"),
        (Promise(content("json", SCHEMA)), folded('{"a": 1.0}'), "valid"),
        (Promise(content("json", SCHEMA)), folded('{"a": 1.5}'), "invalid"),
        (Promise(content("json", SCHEMA)), folded('{"a": ' + "1" * 9000 + "}"), "answer"),
        (Promise(content("json", {"$ref": "#/$defs/none"})), folded("1"), "schema"),
        (
            Promise(content("json", {"pattern": BACKTRACKS})),
            folded('"' + "a" * 60 + '"'),
            "pattern",
        ),
        (
            Promise(content("json", SCHEMA), ToolUse("auto", (F,))),
            folded("", ("f", '{"a": 1}')),
            "valid",
        ),
        (Promise(content("json_object")), folded("{}"), "valid"),
        (Promise(content("json_object")), folded("[]"), "invalid"),
        (Promise(content("choice", ["a"])), folded("a"), "valid"),
        (Promise(content("choice", ["a"])), folded("b"), "invalid"),
        (Promise(content("regex", "a+")), folded("aab"), "invalid"),
        (Promise(content("regex", "a+")), folded("aa"), "valid"),
        (Promise(content("regex", "^a+|b$")), folded("b"), "valid"),
        (Promise(content("regex", "(?i)a+")), folded("AA"), "valid"),
        (Promise(content("regex", r"\w+")), folded("é"), "invalid"),
        (Promise(content("regex", BACKTRACKS)), folded("a" * 60), "pattern"),
        (Promise(content("grammar", "start: /a/")), folded("a"), "grammar"),
        (Promise(content("structural_tag", {})), folded("a"), "grammar"),
    ],
)
def test_what_is_found(
    promise: Promise, answer: AnswerFold, expected: str, local_check: Any, metrics: Metrics
) -> None:
    validate(local_check, metrics, [(promise, answer)])
    assert outcome(metrics) == expected


def test_a_failure_is_logged_without_a_word_of_the_answer(
    local_check: Any, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    schema = {"properties": {"a": {"enum": ["confidential"]}, "b": {"pattern": "hidden"}}}
    answers = ['{"a": "secret"}', '{"b": "secret"}', "secret", '"secret']
    with caplog.at_level(logging.ERROR):
        promises = [Promise(content("json", schema)), Promise(content("json", {"type": "object"}))]
        validate(local_check, metrics, [(p, folded(text)) for p in promises for text in answers])
    assert count(metrics, "invalid") == 6
    assert len(caplog.records) == 6
    assert "secret" not in caplog.text
    assert "/properties/a/enum" in caplog.text


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConstraintError(TOO_LONG, code="schema_too_complex"), "time"),
        (ConstraintError(TOO_LARGE, code="schema_too_complex"), "process"),
        (WorkerFailed("x"), "process"),
        (compiler_unavailable(), "process"),
    ],
)
def test_a_check_that_goes_wrong_is_no_failure(
    error: Exception, expected: UncheckedReason, metrics: Metrics
) -> None:
    async def check(task: str, text: str) -> str:
        raise error

    validate(check, metrics, [(Promise(content("json", SCHEMA)), folded("{}"))])
    assert outcome(metrics) == expected


def test_what_takes_too_long_is_not_tried_again_soon(metrics: Metrics) -> None:
    tried: list[str] = []

    async def check(task: str, text: str) -> str:
        tried.append(text)
        raise ConstraintError(TOO_LONG, code="schema_too_complex")

    slow, other = Promise(content("json", SCHEMA)), Promise(content("json", {}))
    validate(check, metrics, [(slow, folded("1")), (slow, folded("2")), (other, folded("1"))])
    assert [text.partition("\n")[2] for text in tried] == ["1", "1"]
    assert count(metrics, "unchecked", reason="time") == 3


@pytest.mark.parametrize(("limit", "value"), [("MOST_WAITING", 2), ("WAITING_BYTES", 250)])
def test_answers_that_wait_are_bounded(
    limit: str, value: int, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_validation, limit, value)

    async def main() -> None:
        released = asyncio.Event()

        async def check(task: str, text: str) -> str:
            await released.wait()
            return "[null, null]"

        validation = LastValidation(check, metrics)
        for _ in range(5):
            validation.begin(Promise(content("json", {})), folded("1234567890"))
        assert count(metrics, "unchecked", reason="busy") == 3
        released.set()
        await validation.idle()
        assert count(metrics, "checked") == 2
        validation.begin(Promise(content("json", {})), folded("1234567890"))
        await validation.idle()
        assert count(metrics, "checked") == 3

    asyncio.run(asyncio.wait_for(main(), 30))


def test_what_has_waited_too_long_is_left(
    local_check: Any, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_validation, "WAITING_SECONDS", -1.0)
    validate(local_check, metrics, [(Promise(content("json", {})), folded("1"))])
    assert outcome(metrics) == "busy"


def test_the_choices_of_a_request_share_one_text_of_its_schema() -> None:
    promise = Promise(content("json", SCHEMA), NO_TOOLS)
    first, second = (promise.checks(folded(text))[0] for text in ("1", "2"))
    assert first.against is second.against
