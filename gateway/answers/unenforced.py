"""Tools that are not strict and have a keyword that cannot be enforced: all the rest of them is
enforced, and the response, the log and a metric say what is not.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote

from formgate.constrain.errors import ConstraintError
from formgate.constrain.rules.emptiness_reason import NO_INSTANCE
from formgate.gateway.answers.caller import current_caller
from formgate.gateway.answers.constraint_admission import PartRefused
from formgate.gateway.answers.tool_choice import CallableTool, ToolUse
from formgate.gateway.metrics import Metrics
from formgate.gateway.protocol.json_text import write_json
from formgate.gateway.protocol.loosening import without_keyword

logger = logging.getLogger(__name__)

MOST_LEFT_OUT = 20  # keywords of one request; more are refused, as each costs a compile
MOST_KNOWN = 200  # sets of tools whose faults are kept
MAX_HEADER = 2_000  # characters


@dataclass(frozen=True)
class LeftOut:
    """A keyword that is not enforced. `param` is the field of its tool's schema; the pointer leads
    to the keyword in it."""

    tool: str
    param: str
    keyword: str
    pointer: str


class Loosening:
    """Remembers what was left out of a set of tools, as agents send the same ones at each turn."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._known: OrderedDict[bytes, tuple[LeftOut, ...]] = OrderedDict()

    def known(self, tools: ToolUse) -> tuple[ToolUse, tuple[LeftOut, ...]]:
        """The tools without the keywords that an earlier request had to leave out."""
        if not self._known or (digest := _digest(tools)) not in self._known:
            return tools, ()
        self._known.move_to_end(digest)
        left = self._known[digest]
        for each in left:
            found = _without(tools, each.param, each.pointer)
            assert found is not None, "the tools are equal to those that were loosened"
            tools = found[0]
        return tools, left

    def looser(self, tools: ToolUse, refused: PartRefused) -> tuple[ToolUse, LeftOut] | None:
        """The tools without the refused keyword. None if it must not be left out: its tool is
        strict, it is of no tool, or its schema allows nothing at all."""
        if refused.part is None or not _is_unenforceable(refused.error):
            return None
        return _without(tools, refused.part.param, refused.error.pointer)

    def tell(self, given: ToolUse, left: Sequence[LeftOut], *, is_new: bool) -> None:
        """Name what is left out of the `given` tools, in the response's header and the metric; in
        the log if it `is_new`, and remember it."""
        shown = [
            f"tool={each.tool}; keyword={quote(each.keyword)}; pointer={quote(each.pointer)}"
            for each in left
        ]
        current_caller().unenforced = _within(shown, MAX_HEADER)
        for each in left:
            self._metrics.keyword_unenforced(each.keyword)
        if not is_new:
            return
        for each in left:
            logger.warning(
                "The tool %r is enforced without its keyword %r at %s.",
                each.tool,
                each.keyword[:100],
                ascii(each.pointer)[:200],
            )
        self._known[_digest(given)] = tuple(left)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)


def _is_unenforceable(error: ConstraintError) -> bool:
    """True for a keyword that no mask can enforce, not for a schema that costs too much."""
    known = error.code == "unsupported_schema" and bool(error.keyword)
    return known and NO_INSTANCE not in error.message


def _without(tools: ToolUse, param: str, pointer: str) -> tuple[ToolUse, LeftOut] | None:
    number = next((i for i, tool in enumerate(tools.tools) if tool.param == param), None)
    if number is None or tools.tools[number].strict:
        return None
    tool: CallableTool = tools.tools[number]
    found = without_keyword(tool.schema, pointer)
    if found is None:
        return None
    schema, removed = found
    keyword = removed.rpartition("/")[2].replace("~1", "/").replace("~0", "~")
    looser = (*tools.tools[:number], replace(tool, schema=schema), *tools.tools[number + 1 :])
    return replace(tools, tools=looser), LeftOut(tool.name, param, keyword, removed)


def _digest(tools: ToolUse) -> bytes:
    """Empty for a schema with NaN, which admission refuses."""
    texts = [[tool.name, tool.param, tool.strict, dict(tool.schema)] for tool in tools.tools]
    try:
        text = write_json(texts)
    except ValueError:
        return b""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _within(shown: Sequence[str], limit: int) -> str:
    """As many as fit, and the number of the others."""
    kept: list[str] = []
    for text in shown:
        if sum(map(len, kept)) + len(text) > limit:
            return ", ".join([*kept, f"and {len(shown) - len(kept)} more"])
        kept.append(text)
    return ", ".join(kept)
