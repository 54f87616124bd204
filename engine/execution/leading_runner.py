"""Rank 0's runner: it has the other ranks do all that involves their part of the model, in the same
order. `start_runner` is where an engine gets its runner from, of one rank or of several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from formgate.engine.config import EngineConfig
from formgate.engine.devices import resolve_device
from formgate.engine.errors import EngineStartError
from formgate.engine.execution.rank_checks import check_model
from formgate.engine.execution.runner import Forward, ModelRunner
from formgate.engine.loading.weights import Progress, load_model_config, resolve_dtype
from formgate.engine.messages import PositionLogprobs
from formgate.engine.models.registry import model_spec
from formgate.engine.ranks.group import RankGroup
from formgate.engine.ranks.leader import LAST_WORDS, Ranks
from formgate.engine.ranks.messages import ClearBlocks, PlaceAdapter, PromptLogprobs, RunStep
from formgate.engine.step import Step


class LeadingRunner(ModelRunner):
    """Every method that computes sends its message first, so that the other ranks start at once."""

    def __init__(
        self, config: EngineConfig, ranks: Ranks, group: RankGroup, *, progress: Progress
    ) -> None:
        super().__init__(config, progress=progress, group=group)
        self._ranks = ranks
        ranks.allocate(self.max_numbers)

    def forward(self, step: Step, *, timed: bool = False) -> Forward:
        self._ranks.send(RunStep.of(step), step.numbers[: step.num_numbers])
        return super().forward(step, timed=timed)

    def prompt_logprobs(self, forward: Forward) -> list[list[PositionLogprobs]]:
        if forward.prompt_targets:
            self._ranks.send(PromptLogprobs())
        return super().prompt_logprobs(forward)

    def clear_blocks(self, blocks: Iterable[int]) -> None:
        blocks = list(blocks)
        self._ranks.send(ClearBlocks(blocks))
        super().clear_blocks(blocks)

    def load_adapter(self, slot: int, ranks: Sequence[int], weights: torch.Tensor | None) -> None:
        self._ranks.send(PlaceAdapter(slot, list(ranks)))
        super().load_adapter(slot, ranks, weights)

    def lost_rank(self, wait: float = 0.0) -> str | None:
        return self._ranks.lost(wait)

    def close(self, *, in_order: bool = True) -> None:
        if in_order and self._ranks.lost() is None:
            self._ranks.close()
        else:
            self._ranks.kill()


def _same_on_every_rank(config: EngineConfig) -> EngineConfig:
    """The config with nothing left that each host would choose by itself. Raises EngineStartError
    if the ranks cannot divide the model.
    """
    hf_config = load_model_config(config.model_dir)
    check_model(model_spec(hf_config), config.tensor_parallel_size)
    device = resolve_device(config.device)
    dtype: Any = str(resolve_dtype(config.dtype, hf_config, device)).removeprefix("torch.")
    kind: Any = device.type
    return replace(config, device=kind, dtype=dtype)


def start_runner(
    config: EngineConfig,
    *,
    progress: Progress,
    on_lost: Callable[[str], None] | None = None,
) -> ModelRunner:
    """The runner of an engine, with all its ranks. `on_lost` is called, in a thread, if a rank is
    lost and the runner's own thread does not end soon. Raises what ModelRunner raises.
    """
    if config.tensor_parallel_size == 1:
        return ModelRunner(config, progress=progress)
    config = _same_on_every_rank(config)
    ranks = Ranks(config, on_lost)
    group = ranks.start(progress)
    try:
        return LeadingRunner(config, ranks, group, progress=progress)
    except BaseException as error:
        # A collective fails if another rank does; that rank knows the reason.
        reason = ranks.lost(LAST_WORDS) if isinstance(error, RuntimeError) else None
        ranks.kill()
        if reason is not None:
            raise EngineStartError(reason) from error
        raise
