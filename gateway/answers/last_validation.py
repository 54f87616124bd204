"""Validates finished answers once more, independently of the grammars that made them. It runs in a
process of its own after the answer: no client waits for it, and no request fails by it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from formgate.constrain.answer_check import Unchecked, UncheckedReason
from formgate.constrain.errors import ConstraintError
from formgate.gateway.answers.answer_checks import BrokenPromise, Check, Promise
from formgate.gateway.answers.answer_fold import AnswerFold
from formgate.gateway.errors import ApiError
from formgate.gateway.metrics import Metrics
from formgate.gateway.processes.compile_workers import TOO_LONG, WorkerFailed

logger = logging.getLogger(__name__)

MOST_WAITING = 1_000  # answers
WAITING_BYTES = 16 << 20  # of their texts and schemas
WAITING_SECONDS = 5.0  # after which an answer is not validated any more
SKIPPED_SECONDS = 60.0  # before a schema that took too long is tried again
MOST_SKIPPED = 1_000

Ask = Callable[[str, str], Awaitable[str]]  # of a worker: task and text


class LastValidation:
    """Validates answers in turn. A failure is a bug of formgate: it is counted and logged."""

    def __init__(self, ask: Ask, metrics: Metrics) -> None:
        self._ask = ask
        self._metrics = metrics
        self._running: set[asyncio.Task[None]] = set()
        self._waiting_bytes = 0
        self._turn = asyncio.Lock()  # there is one worker
        self._skipped: OrderedDict[bytes, float] = OrderedDict()  # until when, by digest

    def begin(self, promise: Promise, answer: AnswerFold) -> None:
        """Start a validation and return at once. Must be called on the event loop."""
        try:
            checks = promise.checks(answer)
        except BrokenPromise as broken:
            self._fail(str(broken))
            return
        except Unchecked as unchecked:
            self._metrics.structured_answer_unchecked(unchecked.reason)
            return
        num_bytes = sum(check.num_bytes for check in checks)
        if len(self._running) >= MOST_WAITING or self._waiting_bytes + num_bytes > WAITING_BYTES:
            self._metrics.structured_answer_unchecked("busy")
            return
        self._waiting_bytes += num_bytes
        task = asyncio.create_task(self._validate_in_turn(checks, time.monotonic()))
        self._running.add(task)
        self._metrics.structured_answers_waiting(len(self._running))

        def done(task: asyncio.Task[None]) -> None:
            self._running.discard(task)
            self._waiting_bytes -= num_bytes
            self._metrics.structured_answers_waiting(len(self._running))

        task.add_done_callback(done)

    async def idle(self) -> None:
        """Wait until all started validations are done."""
        while self._running:
            await asyncio.wait(self._running)

    async def _validate_in_turn(self, checks: Sequence[Check], ended: float) -> None:
        async with self._turn:
            if time.monotonic() > ended + WAITING_SECONDS:
                self._metrics.structured_answer_unchecked("busy")
            else:
                await self._validate(checks)

    async def _validate(self, checks: Sequence[Check]) -> None:
        unknown: UncheckedReason | None = None
        for check in checks:
            try:
                failure = await self._failure(check)
            except Unchecked as unchecked:
                unknown = unknown or unchecked.reason
                continue
            if failure is not None:
                self._fail(f"{check.what}: {failure}")
                return
        if unknown is not None:
            self._metrics.structured_answer_unchecked(unknown)
        else:
            self._metrics.structured_answer_checked()

    async def _failure(self, check: Check) -> str | None:
        """The reason why the check failed, or None. Raises Unchecked."""
        text = f"{check.against}\n{check.text}"
        digest = hashlib.sha256(check.against.encode()).digest()
        if time.monotonic() < self._skipped.get(digest, 0.0):
            raise Unchecked("time")
        try:
            failure, unchecked = json.loads(await self._ask(check.task, text))
        except ConstraintError as error:  # the worker was killed or ran out of memory
            if error.message != TOO_LONG:
                raise Unchecked("process") from None
            self._skip(digest)
            raise Unchecked("time") from None
        except (ApiError, WorkerFailed):
            raise Unchecked("process") from None
        if unchecked is not None:
            raise Unchecked(unchecked)
        assert failure is None or isinstance(failure, str)
        return failure

    def _skip(self, digest: bytes) -> None:
        self._skipped[digest] = time.monotonic() + SKIPPED_SECONDS
        if len(self._skipped) > MOST_SKIPPED:
            self._skipped.popitem(last=False)

    def _fail(self, failure: str) -> None:
        self._metrics.structured_answer_checked()
        self._metrics.structured_answer_invalid()
        logger.error("A structured answer failed the last validation: %s", failure)
