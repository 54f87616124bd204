"""The reasoning formats of the families, and the reasoning state at the end of a prompt: inside the
region, after it, or undecided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from formgate.parsers.formats.format import ReasoningFormat, ReasoningState
from formgate.parsers.text.symbols import Marker, text_of

DEEPSEEK_R1 = ReasoningFormat("deepseek_r1", (Marker("<think>"),), (Marker("</think>"),))
QWEN3 = ReasoningFormat("qwen3", (Marker("<think>"),), (Marker("</think>"),))
MISTRAL_THINK = ReasoningFormat("mistral", (Marker("[THINK]"),), (Marker("[/THINK]"),))
GRANITE = ReasoningFormat(
    "granite", (Marker("Here is my thought process:"),), (Marker("Here is my response:"),)
)

HARMONY = ReasoningFormat(
    "harmony",
    open=(Marker("<|channel|>"), "analysis", Marker("<|message|>")),
    close=(Marker("<|end|>"),),
    gap=0,
    reopens=True,
)


def reasoning_state_of(
    prompt_token_ids: Sequence[int],
    reasoning: ReasoningFormat | None,
    special_ids: Mapping[str, int],
    *,
    prompt_text: str = "",
) -> ReasoningState:
    """The reasoning state at the end of the prompt. "open": inside the region; "closed": the turn
    has left it; "optional": the model may open it; "none": the model does not reason.

    Markers that are special tokens are found by id. Plain-text markers cannot be distinguished from
    a user's text, so only the end of `prompt_text` counts.
    """
    if reasoning is None:
        return "none"
    undecided: ReasoningState = "optional" if reasoning.may_open else "none"
    open_id, close_id = reasoning.token_ids(special_ids)
    if len(reasoning.open) > 1:
        return undecided
    if open_id is None or close_id is None:
        return _state_by_text(prompt_text, reasoning, undecided)
    special = frozenset(special_ids.values())
    turn_is_over = False  # another special token, such as a role's, follows
    for token_id in reversed(prompt_token_ids):
        if token_id in (open_id, close_id):
            # A region that an earlier turn left open, cut by its limit, ends with that turn.
            here: ReasoningState = "open" if token_id == open_id else "closed"
            return undecided if turn_is_over else here
        turn_is_over = turn_is_over or token_id in special
    return undecided


def _state_by_text(
    prompt_text: str, reasoning: ReasoningFormat, undecided: ReasoningState
) -> ReasoningState:
    end = prompt_text.rstrip()
    if end.endswith(text_of(reasoning.open)):
        return "open"
    return "closed" if end.endswith(text_of(reasoning.close)) else undecided
