"""Determines from a prompt's end whether the answer starts inside the reasoning. Markers that a
client typed do not count.
"""

from __future__ import annotations

from collections.abc import Sequence

from formgate.gateway.model.model_profile import ModelProfile
from formgate.gateway.model.prompts import conversation_of, end_of_prompt, message_text
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.parsers.families.reasoning import reasoning_state_of
from formgate.parsers.formats.format import ReasoningState
from formgate.parsers.text.symbols import text_of

END_OF_PROMPT = 32  # tokens at the prompt's end to search for a marker
END_OF_PROMPT_TEXT = 256  # the same in characters


def reasoning_start(
    request: ChatCompletionRequest, prompt_token_ids: Sequence[int], profile: ModelProfile
) -> ReasoningState:
    """Raises ApiError 400 if the chat template refuses the conversation."""
    state = _at_the_end_of(prompt_token_ids, profile)
    if state not in ("open", "closed") or not _may_be_typed(request, profile):
        return state
    # Render the conversation with another last text: a marker still there is the template's.
    said = request.messages[-1].model_copy(update={"content": "text"})
    other = request.model_copy(update={"messages": [*request.messages[:-1], said]})
    conversation = conversation_of(other, profile.chat_template_kwargs)
    assert profile.chat_template is not None
    end = end_of_prompt(
        conversation, profile.tokenizer, profile.chat_template, length=END_OF_PROMPT_TEXT
    )
    return reasoning_state_of(
        (), profile.reasoning_format, profile.tokenizer.special_ids, prompt_text=end
    )


def _at_the_end_of(token_ids: Sequence[int], profile: ModelProfile) -> ReasoningState:
    return reasoning_state_of(
        token_ids,
        profile.reasoning_format,
        profile.tokenizer.special_ids,
        prompt_text=profile.tokenizer.decode(token_ids[-END_OF_PROMPT:]),
    )


def _may_be_typed(request: ChatCompletionRequest, profile: ModelProfile) -> bool:
    """True if the last message ends with a marker that is no special token. False for a message of
    the assistant, which is continued as it is."""
    reasoning = profile.reasoning_format
    assert reasoning is not None
    if None not in reasoning.token_ids(profile.tokenizer.special_ids):
        return False
    if profile.chat_template is None:  # with mistral-common, markers are special tokens
        return False
    last = request.messages[-1]
    markers = (text_of(reasoning.open), text_of(reasoning.close))
    return last.role != "assistant" and message_text(last).rstrip().endswith(markers)
