"""Why a request cannot be served, or no token can be chosen for it, in words and by the field to
blame.
"""

from __future__ import annotations

from formgate.engine.messages import Fault
from formgate.engine.sequence import Sequence

NO_VALID_TOKEN = (
    "No token can be chosen: the model's logits are not valid, or the request's own settings "
    "or its constraint exclude every token."
)


def conflicting_field(sequence: Sequence) -> Fault | None:
    """The field to blame if no token is left: the first of two or more that exclude tokens. None
    if there are fewer, as a single one always leaves a token.
    """
    params = sequence.params
    excluding: dict[Fault, bool] = {
        "allowed_token_ids": params.allowed_token_ids is not None,
        "bad_words": bool(params.bad_words),
        "constraint": sequence.constraint is not None,
    }
    given = [name for name, is_given in excluding.items() if is_given]
    return given[0] if len(given) > 1 else None


def problem_with(sequence: Sequence, max_model_len: int, vocab_size: int) -> str | None:
    """Why the engine cannot run the sequence. The gateway refuses such requests already; here they
    would end the whole engine.
    """
    prompt = sequence.token_ids
    if not prompt:
        return "The prompt is empty."
    if len(prompt) >= max_model_len:
        return (
            f"The prompt has {len(prompt)} tokens; the model's context length is {max_model_len}."
        )
    if min(prompt) < 0 or max(prompt) >= vocab_size:
        return "The prompt holds a token id outside the vocabulary."
    return None


def no_adapter(name: str) -> str:
    return f"The adapter `{name}` does not exist."
