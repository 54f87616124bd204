"""The messages between rank 0 and the other ranks, in msgpack. A step's integers travel beside its
message, as they are.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from formgate.engine.config import EngineConfig
from formgate.engine.step import BatchShape, PromptTargets, Step, StepLayout


class Hello(msgspec.Struct, tag="hello"):
    """First message of a rank, once its process can serve."""

    rank: int
    model: str  # digest of the model's config.json


class Failure(msgspec.Struct, tag="failure"):
    """Last message of a rank that cannot start or go on."""

    message: str  # one line for the operator
    traceback: str | None = None  # of a bug; None: the message says all


class Welcome(msgspec.Struct, tag="welcome"):
    """First message of rank 0: the engine's options, and where the ranks' store listens."""

    config: EngineConfig
    size: int
    store_host: str
    store_port: int


class RunStep(msgspec.Struct, tag="step"):
    """A `Step` without its numbers, which follow the message."""

    layout: StepLayout
    shape: BatchShape | None
    num_rows: int
    num_logits: int
    table_width: int
    max_query_len: int
    max_context_len: int
    max_read_rows: int
    has_pending: bool
    prompt_targets: tuple[PromptTargets, ...]

    @classmethod
    def of(cls, step: Step) -> RunStep:
        return cls(*(getattr(step, name) for name in cls.__struct_fields__))

    def step(self, numbers: NDArray[np.int64]) -> Step:
        return Step(numbers, *(getattr(self, name) for name in self.__struct_fields__))


class PromptLogprobs(msgspec.Struct, tag="prompt_logprobs"):
    """Compute the prompt logprobs of the oldest step that has targets and was not asked for yet."""


class ClearBlocks(msgspec.Struct, tag="clear"):
    """Zero blocks of the KV cache."""

    blocks: list[int]


class PlaceAdapter(msgspec.Struct, tag="adapter"):
    """Receive an adapter from rank 0 and put this rank's part into a slot."""

    slot: int
    ranks: list[int]  # of the model's targets


class Stop(msgspec.Struct, tag="stop"):
    """End the process in order."""


LeaderMessage = Welcome | RunStep | PromptLogprobs | ClearBlocks | PlaceAdapter | Stop
FollowerMessage = Hello | Failure
