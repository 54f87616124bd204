"""Admission of a constraint: it is compiled, and its shortest answer fits in the tokens that the
request allows, before anything runs under it. A refusal names the request's field at fault.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import msgspec

from formgate.constrain.errors import ConstraintError
from formgate.constrain.masks.constraint import Constraint, SizedConstraint
from formgate.gateway.errors import ApiError, bad_request
from formgate.gateway.metrics import Metrics
from formgate.gateway.protocol.json_text import write_json
from formgate.parsers.tree.nodes import Node

FEW_TOKENS = 256
_MANY = re.compile(r'"min(?:Length|Items|Properties)":[0-9.]{3,}|\{[0-9]{3,}')


class Compiling(Protocol):
    """What is needed of `CompilePool`."""

    def known(self, task: str, spec_text: str) -> str | None: ...
    async def compiled(self, task: str, spec_text: str) -> str: ...
    async def check(self, task: str, text: str) -> str: ...


class Part(NamedTuple):
    """What the client wrote, with the field that it stands in, and the tool if it is one's."""

    param: str
    node: Node
    tool: str | None = None


class PartRefused(Exception):
    """The compiler refuses a constraint: one part of it, or None if only the whole is at fault."""

    def __init__(self, error: ConstraintError, part: Part | None) -> None:
        super().__init__(error.message)
        self.error = error
        self.part = part


class TokenLimit(NamedTuple):
    tokens: int | None  # that the answer may have
    param: str  # that says so
    close: bool  # end the answer in time


class ConstraintAdmission:
    def __init__(self, compiling: Compiling, metrics: Metrics) -> None:
        self._compiling = compiling
        self._metrics = metrics

    async def admit(
        self,
        tree: Node,
        parts: Sequence[Part],
        *,
        limit: TokenLimit,
        meanwhile: Callable[[], Awaitable[None]],
    ) -> Constraint:
        """The constraint, once it is known to compile. Raises PartRefused, and ApiError 400 for a
        limit of tokens that no answer fits."""
        spec = _spec(tree, parts)

        async def ask(task: str) -> str:
            compiled = self._compiling.known(task, spec)
            if compiled is not None:
                self._metrics.grammar_found()
                return compiled
            await meanwhile()
            started = time.monotonic()
            try:
                return await self._compiled(task, spec, parts)
            finally:
                self._metrics.grammar_awaited(time.monotonic() - started)

        tokens = limit.tokens
        if tokens is None or not (limit.close or _may_not_fit(tree, spec, tokens)):
            return Constraint.loads(await ask("constraint"))
        if not limit.close:
            fitting = SizedConstraint.loads(await ask("fitting_constraint"))
            if fitting.tokens <= tokens:
                return fitting.constraint
        task = "closing_constraint" if limit.close else "sized_constraint"
        sized = SizedConstraint.loads(await ask(task))
        if sized.tokens > tokens:
            raise bad_request(
                f"The shortest answer that the constraint allows has {sized.tokens} tokens, and "
                f"the request allows {tokens}. Raise the limit.",
                limit.param,
                "max_tokens_too_small",
            )
        constraint = sized.constraint
        if constraint.closing is None:
            return constraint
        return msgspec.structs.replace(
            constraint, closing=replace(constraint.closing, tokens=tokens)
        )

    async def _compiled(self, task: str, spec: str, parts: Sequence[Part]) -> str:
        """A refused whole is looked at part by part, to name the field."""
        try:
            return await self._compiling.compiled(task, spec)
        except ConstraintError as error:
            refused = error
        if len(parts) > 1:
            for part in parts:
                try:
                    await self._compiling.compiled("constraint", _spec(part.node, parts))
                except ConstraintError as error:
                    raise PartRefused(error, part) from None
        raise PartRefused(refused, parts[0] if len(parts) == 1 else None)

    def refusal(self, refused: PartRefused) -> ApiError:
        """The client's error, which is counted."""
        part = refused.part
        if part is None:
            return self.refusal_of(refused.error, None)
        return self.refusal_of(refused.error, part.param, part.tool)

    def refusal_of(
        self, error: ConstraintError, param: str | None, tool: str | None = None
    ) -> ApiError:
        self._metrics.schema_refused(error.keyword or "other")
        if param is not None and error.pointer:
            param = f"{param}{'' if '#' in param else '#'}{error.pointer}"
        of_tool = "" if tool is None else f"The parameters of the tool {tool!r}: "
        return bad_request(of_tool + error.message, param, error.code)


def _may_not_fit(tree: Node, spec: str, max_tokens: int) -> bool:
    """True if the shortest answer may exceed `max_tokens`, so that computing it pays off: the
    tokens are few, or the schema asks for many of something.
    """
    if tree["kind"] not in ("json", "regex", "choice"):
        return False
    return max_tokens < FEW_TOKENS or _MANY.search(spec) is not None


def _spec(tree: Node, parts: Sequence[Part]) -> str:
    try:
        return write_json({"tree": tree})
    except ValueError as error:
        raise bad_request(
            "A schema must not hold NaN or Infinity.",
            parts[0].param if parts else None,
            "invalid_schema",
        ) from error
