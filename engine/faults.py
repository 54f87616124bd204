"""Why no token can be chosen for a request, in words and by the field to blame."""

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
