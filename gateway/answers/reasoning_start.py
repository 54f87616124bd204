"""Whether an answer begins inside the reasoning, as the end of its prompt says, and not as a client
may have made it look.
"""

from __future__ import annotations

from collections.abc import Sequence

from formgate.gateway.model.model_profile import ModelProfile
from formgate.gateway.model.prompts import conversation_of, end_of_prompt, message_text
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.parsers.families.reasoning import reasoning_state_of
from formgate.parsers.formats.format import ReasoningState
from formgate.parsers.text.symbols import text_of

END_OF_PROMPT = 32  # tokens in which a marker of the reasoning may be spelled out
END_OF_PROMPT_TEXT = 256  # characters, likewise


def reasoning_start(
    request: ChatCompletionRequest, prompt_token_ids: Sequence[int], profile: ModelProfile
) -> ReasoningState:
    """Raises ApiError 400 where the chat template refuses the conversation."""
    state = _at_the_end_of(prompt_token_ids, profile)
    if state not in ("open", "closed") or not _may_be_typed(request, profile):
        return state
    # The same conversation with another last word: what is still there is the template's own.
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
    """Whether the last message ends with a marker that is no special token. The assistant's own
    message is the exception: it is continued as it stands."""
    reasoning = profile.reasoning_format
    assert reasoning is not None
    if None not in reasoning.token_ids(profile.tokenizer.special_ids):
        return False
    if profile.chat_template is None:  # mistral-common's: its markers are special tokens
        return False
    last = request.messages[-1]
    markers = (text_of(reasoning.open), text_of(reasoning.close))
    return last.role != "assistant" and message_text(last).rstrip().endswith(markers)
