"""Reads steps as OpenAI's plain completions: the chunks of a stream, and the whole response of the
folds of the choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from formgate.engine.messages import PositionLogprobs
from formgate.gateway.answers.answer import Answer
from formgate.gateway.answers.answer_fold import AnswerFold, ChoiceStep
from formgate.gateway.answers.choice import Choice
from formgate.gateway.model.logprobs import completion_logprobs, prompt_logprobs
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.protocol.completion import CompletionRequest


class Completion:
    """The response to one request. A chunk of its stream is the fold of the steps since the last
    one, so a chunk and a whole choice have the same shape.
    """

    def __init__(
        self,
        answer: Answer,
        request: CompletionRequest,
        echoes: Sequence[str],
        tokenizer: Tokenizer,
    ) -> None:
        """`echoes`: the text to repeat of each prompt, empty without `echo`."""
        self._fields = answer.head.fields("text_completion")
        self._answer = answer
        self._request = request
        self._echoes = echoes
        self._tokenizer = tokenizer
        self._keeps_tokens = shows_tokens(request)
        self._include_usage = request.include_usage
        self._usage_in_every_chunk = request.usage_in_every_chunk
        self._opened: set[int] = set()  # choices that have been shown
        self._offsets: dict[int, int] = {}  # by choice, characters before its next token
        self._held: dict[int, AnswerFold] = {}  # by choice, steps that no chunk has carried yet

    def of(self, step: ChoiceStep) -> list[dict[str, Any]]:
        """One chunk; none while text is held back."""
        index = step.index
        fold = self._held.pop(index, None) or AnswerFold(self._keeps_tokens)
        fold.add_step(step)
        opens = index not in self._opened and bool(self._echo(index))
        if not (opens or step.finish_reason is not None or fold.content):
            self._held[index] = fold
            return []
        chunk = {**self._fields, "choices": [self._choice(index, fold)]}
        if self._include_usage:
            usage = self._answer.usage
            chunk["usage"] = usage.as_dict() if self._usage_in_every_chunk else None
        return [chunk]

    def closing(self) -> list[dict[str, Any]]:
        """The last chunk, if the client asked for it: usage and no choice."""
        if not self._include_usage:
            return []
        return [{**self._fields, "choices": [], "usage": self._answer.usage.as_dict()}]

    def whole(self) -> dict[str, Any]:
        """The response, once the answer is complete."""
        choices = [self._choice(choice.index, choice.fold) for choice in self._best()]
        for index, choice in enumerate(choices):
            choice["index"] = index
        return {**self._fields, "choices": choices, "usage": self._answer.usage.as_dict()}

    def _best(self) -> Sequence[Choice]:
        """Of each prompt's `best_of` choices, the `n` most likely, the best first."""
        choices, count = self._answer.choices, self._answer.choices_per_prompt
        _, wanted = choice_counts(self._request)
        if count == wanted:
            return choices
        best: list[Choice] = []
        for start in range(0, len(choices), count):
            group = choices[start : start + count]
            best += sorted(group, key=_mean_logprob, reverse=True)[:wanted]
        return best

    def _echo(self, index: int) -> str:
        return self._echoes[index // self._answer.choices_per_prompt]

    def _choice(self, index: int, fold: AnswerFold) -> dict[str, Any]:
        request = self._request
        opening = index not in self._opened
        self._opened.add(index)
        choice: dict[str, Any] = {
            "index": index,
            "text": (self._echo(index) if opening else "") + fold.content,
            "logprobs": None,
            "finish_reason": fold.finish_reason,
            "stop_reason": fold.stop_reason,
        }
        if fold.closed:
            choice["closed_within_budget"] = True
        prompt_token_ids = self._answer.prompts[index // self._answer.choices_per_prompt]
        prompt_positions = self._answer.choices[index].fold.prompt_logprobs
        if request.logprobs is not None:
            positions: list[PositionLogprobs | None] = list(fold.logprobs)
            token_ids = fold.token_ids[: len(positions)]
            if opening and request.echo:
                positions = [*(prompt_positions or ()), *positions]
                token_ids = [*prompt_token_ids, *token_ids]
            choice["logprobs"], self._offsets[index] = completion_logprobs(
                token_ids,
                positions,
                self._tokenizer,
                num_top=request.logprobs,
                first_offset=self._offsets.get(index, 0),
            )
        if request.prompt_logprobs is not None and prompt_positions is not None:
            choice["prompt_logprobs"] = prompt_logprobs(prompt_positions, self._tokenizer)
        if request.traced:
            choice["trace"] = fold.trace
        if request.return_token_ids:
            choice["token_ids"] = fold.token_ids
            choice["prompt_token_ids"] = prompt_token_ids if opening else None
        return choice


def choice_counts(request: CompletionRequest) -> tuple[int, int]:
    """Choices generated and choices shown, for each prompt."""
    wanted = request.n or 1
    return max(wanted, request.best_of or 1), wanted


def shows_tokens(request: CompletionRequest) -> bool:
    """True if the response has a list with an entry for each token."""
    return request.logprobs is not None or bool(request.return_token_ids) or request.traced


def _mean_logprob(choice: Choice) -> float:
    logprobs = choice.fold.logprobs
    return sum(position.chosen.logprob for position in logprobs) / max(1, choice.num_tokens)
