"""The last validation of a finished answer, by other means than the grammar that made it."""

from __future__ import annotations

import re

from formgate.constrain.validate import validate_json
from formgate.gateway.answer_fold import AnswerFold
from formgate.gateway.protocol.constraints import ContentConstraint
from formgate.gateway.tool_choice import ToolUse


def broken_promise(
    content: ContentConstraint | None, tools: ToolUse, answer: AnswerFold
) -> str | None:
    """What is wrong with an answer that ended by itself, in one line that quotes nothing of it."""
    if tools.mode == "required" and not answer.calls:
        return "a call was required and none was made"
    if len(answer.calls) > 1 and not tools.parallel:
        return "one call was allowed and more were made"
    schemas = {tool.name: tool.schema for tool in tools.tools}
    for call in answer.calls:
        if call.name not in schemas:
            return "a tool was called that the request does not have"
        if (wrong := validate_json(call.arguments, schemas[call.name])) is not None:
            return f"arguments of a call: {wrong}"
    if content is None or answer.calls:
        return None
    return _wrong_content(content, answer.content)


def _wrong_content(constraint: ContentConstraint, text: str) -> str | None:
    match constraint.kind:
        case "json":
            return validate_json(text, constraint.value)
        case "json_object":
            return validate_json(text, {"type": "object"})
        case "choice":
            return None if text in constraint.value else "the content is none of the choices"
        case "regex":
            return _wrong_by_pattern(constraint.value, text)
        case "grammar" | "structural_tag":
            return None  # no second engine reads these


def _wrong_by_pattern(pattern: str, text: str) -> str | None:
    try:
        matches = re.fullmatch(pattern, text)
    except re.error:
        return None  # the grammar's dialect and Python's differ at the edges
    return None if matches else "the content does not match the pattern"
