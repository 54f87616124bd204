"""The engine: requests in, tokens out, one step at a time. It connects the scheduler, the runner
and the constraints, none of which knows the others. Sockets and processes belong to the loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from formgate.engine.adapter import AdapterError
from formgate.engine.config import EngineConfig
from formgate.engine.execution.leading_runner import start_runner
from formgate.engine.faults import NO_VALID_TOKEN, conflicting_field, no_adapter, problem_with
from formgate.engine.flight import Flight, describe_prompt, readers_of
from formgate.engine.hooks import (
    ConstraintFactory,
    ConstraintTooComplex,
    FillMasks,
    raise_too_complex,
)
from formgate.engine.loading.weights import Progress
from formgate.engine.lora.service import AdapterService
from formgate.engine.messages import (
    AddRequest,
    EngineReady,
    EngineStats,
    Fault,
    StepOutputs,
    TokenOutput,
)
from formgate.engine.sampling.masks import MaskFiller, StepMasks, one_by_one
from formgate.engine.sampling.sampler import SampledTokens
from formgate.engine.scheduling.admission import ConstraintBuilder
from formgate.engine.scheduling.block_pool import BlockPool
from formgate.engine.scheduling.block_tables import BlockTables
from formgate.engine.scheduling.finish import Finish, FinishRules
from formgate.engine.scheduling.scheduler import Schedule, Scheduler
from formgate.engine.scheduling.step_packer import StepPacker
from formgate.engine.sequence import NO_ROWS, Sequence

logger = logging.getLogger(__name__)

BUILD_WAIT = 0.002  # seconds that an idle step waits for a constraint before it reads commands
# Up to this many sequences, a step saved by forced tokens is worth more than overlapping steps.
FEW_ROWS = 8


class Engine:
    """With `async_scheduling` steps overlap: each is launched before the previous step's tokens
    reach the CPU. If such a token ends its sequence, or forces further tokens, the sequence's row
    in the launched step is wasted and its result is ignored.
    """

    def __init__(
        self,
        config: EngineConfig,
        constraint_factory: ConstraintFactory,
        *,
        fill_masks: FillMasks = one_by_one,
        progress: Progress,
        on_lost_rank: Callable[[str], None] | None = None,
    ) -> None:
        """Raises EngineStartError, WeightsError, UnsupportedModelError or AdapterError.

        `on_lost_rank`: called in a thread if another rank is gone and `step` may wait for ever.
        """
        self.config = config
        self.runner = start_runner(config, progress=progress, on_lost=on_lost_rank)
        try:
            self.adapters = AdapterService(config, self.runner.adapters, self.runner.load_adapter)
        except AdapterError:
            self.runner.close(in_order=False)
            raise
        self.pool = BlockPool(self.runner.num_blocks)
        window = self.runner.spec.sliding_window
        tables = BlockTables(
            self.pool, config.block_size, prefix_caching=config.enable_prefix_caching, window=window
        )
        self.scheduler = Scheduler(
            tables,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=self.runner.max_num_batched_tokens,
            max_model_len=self.runner.max_model_len,
            policy=config.scheduling_policy,
            adapters=self.adapters.slots,
            whole_prompts=self.runner.whole_prompts,
            max_prompt_tokens=config.max_prompt_tokens,
        )
        self.packer = StepPacker(
            max_num_seqs=config.max_num_seqs,
            max_blocks_per_seq=tables.num_blocks_for(self.runner.max_model_len),
            block_size=config.block_size,
            shapes=self.runner.shapes,
            adapter_slots=config.adapter_slots,
        )
        self.rules = FinishRules(self.runner.eos_token_ids, self.runner.max_model_len)
        self.masks = MaskFiller(self.runner.sampling.bitmask, fill_masks)
        self.builder = ConstraintBuilder(constraint_factory)
        self._sequences: dict[str, Sequence] = {}  # unfinished ones, by request id
        self._early: list[TokenOutput] = []  # of sequences that ended outside a step
        self._num_forced = 0  # since the last step
        self._flight = Flight()
        given = config.async_scheduling
        self._overlap = self.runner.on_cuda if given is None else given

    @property
    def ready(self) -> EngineReady:
        return EngineReady(
            max_model_len=self.runner.max_model_len,
            num_blocks=self.runner.num_blocks,
            block_size=self.config.block_size,
            vocab_size=self.runner.spec.vocab_size,
            device=str(self.runner.device),
            dtype=str(self.runner.dtype).removeprefix("torch."),
            adapters=self.adapters.infos(),
        )

    @property
    def has_work(self) -> bool:
        """False if there is no sequence, or if every sequence waits for a `release`."""
        building = (self._sequences and self.builder.num_pending) or self.adapters.is_changing
        return bool(self._early or building or self.scheduler.has_work)

    def add_request(self, request: AddRequest) -> None:
        """Queue a request. One that cannot be served ends with an error in the next output."""
        assert request.request_id not in self._sequences, "request ids are unique"
        name = request.lora_name
        sequence = Sequence(
            request_id=request.request_id,
            token_ids=list(request.prompt_token_ids),
            num_prompt_tokens=len(request.prompt_token_ids),
            params=request.params,
            adapter=None if name is None else self.adapters.find(name),
            priority=request.priority,
            cache_salt=request.cache_salt,
            arrival_time=time.monotonic(),
        )
        self._sequences[request.request_id] = sequence
        runner = self.runner
        if problem := problem_with(sequence, runner.max_model_len, runner.vocab_size):
            self._early.append(self._fail(sequence, problem))
        elif name is not None and sequence.adapter is None:
            self._early.append(self._fail(sequence, no_adapter(name), fault="model"))
        elif request.held:
            sequence.held = True
            self.scheduler.add(sequence)
        elif request.constraint is not None:
            self.builder.submit(sequence, request.constraint)
        else:
            self.scheduler.add(sequence)

    def release(self, request_id: str, constraint: str) -> None:
        """Give a held request its constraint. Unknown ids, just aborted perhaps, are ignored."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self.builder.submit(sequence, constraint)

    def abort(self, request_ids: Iterable[str]) -> None:
        """Free the requests' blocks at once. Unknown ids, just finished perhaps, are ignored."""
        for request_id in request_ids:
            sequence = self._sequences.get(request_id)
            if sequence is not None:
                self._drop(sequence)
                self._early.append(TokenOutput(request_id, [], "abort"))

    def step(self) -> StepOutputs:
        self._admit()
        stats = EngineStats(0, 0, 0.0)
        outputs: list[TokenOutput] = []
        overlap = self._overlap and not self._waits_for_forced_tokens()
        if not overlap:
            self._land(outputs, stats)
        self.runner.leave_a_core(any(one.held for one in self._sequences.values()))
        schedule = self.scheduler.schedule()
        flight = self._forward(schedule)  # launched, not awaited
        self.scheduler.advance(schedule)
        self._land(outputs, stats)  # the previous step, whose tokens were still on the device
        self._sample(flight)
        if not overlap:
            self._land(outputs, stats)
        stats.num_preemptions = schedule.num_preemptions
        stats.prefix_cache_queries = schedule.prefix_queries
        stats.prefix_cache_hits = schedule.prefix_hits
        stats.num_batched_tokens = schedule.num_tokens
        stats.num_forced_tokens, self._num_forced = self._num_forced, 0
        stats.num_running = len(self.scheduler.running)
        stats.num_waiting = len(self._sequences) - stats.num_running
        stats.kv_cache_usage = self.pool.num_used / self.pool.num_blocks
        self.adapters.describe(stats, self.scheduler.running, self.scheduler.waiting)
        early, self._early = self._early, []
        return StepOutputs(early + outputs, stats)

    def check_integrity(self) -> None:
        """Assert that reference counts match the block tables, and are 0 when idle."""
        self.scheduler.check_integrity()
        if not self._sequences:
            assert self.pool.num_used == 0, f"{self.pool.num_used} blocks are in use"

    def close(self, *, in_order: bool = True) -> None:
        """Stop building constraints, and the other ranks; these are killed if not `in_order`."""
        self.builder.close()
        self.adapters.close()
        self.runner.close(in_order=in_order)

    def _admit(self) -> None:
        """Schedule sequences whose constraints are built; fail those that waited too long."""
        for sequence in self.scheduler.overdue(self.config.max_queue_seconds):
            self._early.append(
                self._fail(sequence, "The request waited too long in the queue.", fault="queue")
            )
        for sequence, error in self.adapters.collect(self._sequences.values()):
            self._early.append(self._fail(sequence, error))
        idle = not self.scheduler.has_work and not self._early
        for sequence, built in self.builder.collect(timeout=BUILD_WAIT if idle else 0.0):
            if sequence.is_finished:
                continue
            if isinstance(built, Exception):
                self._early.append(self._constraint_failed(sequence, built, of_request=True))
                continue
            sequence.constraint = built
            self._start(sequence)

    def _start(self, sequence: Sequence) -> None:
        """Append the tokens that the grammar forces first, to compute them with the prompt, and
        hand the sequence to the scheduler.
        """
        finish: Finish | None = None
        params = sequence.params
        if params.max_tokens > 0 and params.prompt_logprobs is None:
            try:
                finish = self._force(sequence)
            except Exception as error:
                self._early.append(self._constraint_failed(sequence, error))
                return
        if finish is None and sequence.held:
            sequence.held = False
        elif finish is None:
            self.scheduler.add(sequence)
        else:
            self._early.append(self._new_tokens(sequence, finish))

    def _waits_for_forced_tokens(self) -> bool:
        """True if few sequences run and a grammar may force tokens. The next step then waits for
        the last one's tokens, so that forced tokens are computed together with the token before.
        """
        running = self.scheduler.running
        return (
            self.config.forced_tokens
            and len(running) <= FEW_ROWS
            and any(sequence.may_be_forced for sequence in running)
        )

    def _forward(self, schedule: Schedule) -> Flight:
        if not schedule.sequences:
            return Flight()
        step = self.packer.pack(schedule.sequences, self.runner.next_numbers())
        readers = readers_of(schedule.sequences)
        constrained = any(reader.sequence.constraint is not None for reader in readers)
        forward = self.runner.forward(step, timed=constrained)
        prompts = [schedule.sequences[targets.sequence] for targets in step.prompt_targets]
        return Flight(readers, prompts, forward)

    def _sample(self, flight: Flight) -> None:
        """Fill the masks while the device computes the logits, then launch sampling."""
        assert not self._flight.readers
        sequences = [reader.sequence for reader in flight.readers]
        masks = self.masks.fill(sequences)
        forward = flight.forward
        sampling = self.runner.sampling.launch(forward.logits, sequences, masks, forward.done)
        self._flight = replace(flight, masks=masks, sampling=sampling)
        for reader in flight.readers:
            sequence = reader.sequence
            # False if the tokens that just landed ended it or forced further ones.
            if not sequence.is_finished and sequence.num_uncomputed_tokens == 0:
                sequence.pending_rows = reader.rows

    def _land(self, outputs: list[TokenOutput], stats: EngineStats) -> None:
        """Wait for the tokens of the step that was launched last, and append its outputs."""
        flight, self._flight = self._flight, Flight()
        tokens = flight.sampling.fetch()
        self._collect_prompt_logprobs(flight)
        for reader in flight.readers:
            sequence, rows = reader.sequence, reader.rows
            if sequence.pending_rows != rows:  # aborted, or the rows were wasted
                continue
            sequence.pending_rows = NO_ROWS
            outputs.append(self._emit_row(rows[0], sequence, flight.masks, tokens))
        stats.mask_time += flight.masks.seconds
        stats.mask_wait += tokens.mask_wait

    def _collect_prompt_logprobs(self, flight: Flight) -> None:
        """Store the prompt logprobs that the step computed in their sequences."""
        found = self.runner.prompt_logprobs(flight.forward)
        targets = flight.forward.prompt_targets
        for sequence, one, logprobs in zip(flight.prompts, targets, found, strict=True):
            # A sequence that was preempted meanwhile overwrites the same positions.
            sequence.prompt_logprobs[one.first_target - 1 :] = logprobs

    def _emit_row(
        self, row: int, sequence: Sequence, masks: StepMasks, tokens: SampledTokens
    ) -> TokenOutput:
        if row in masks.failed:
            return self._constraint_failed(sequence, masks.failed[row], of_request=True)
        if row in tokens.broken_rows:
            logger.error("no token can be chosen for %s", sequence.request_id)
            return self._fail(
                sequence, NO_VALID_TOKEN, poisoned=True, fault=conflicting_field(sequence)
            )
        try:
            finish = self._accept(sequence, tokens.token_ids[row])
        except Exception as error:
            return self._constraint_failed(sequence, error)
        output = self._new_tokens(sequence, finish)
        logprobs = tokens.logprobs[row]
        if logprobs is not None:
            output.logprobs = [logprobs][: len(output.token_ids)]
        if sequence.params.trace:
            output.trace = [tokens.traces[row]][: len(output.token_ids)]
        return output

    def _new_tokens(self, sequence: Sequence, finish: Finish | None) -> TokenOutput:
        """The output tokens not emitted yet; the first output also describes the prompt."""
        emitted = sequence.num_emitted_tokens
        output = TokenOutput(
            sequence.request_id, sequence.token_ids[sequence.num_prompt_tokens + emitted :]
        )
        if emitted == 0:
            describe_prompt(output, sequence)
        sequence.num_emitted_tokens = sequence.num_output_tokens
        if finish is not None:
            output.finish_reason, output.stop_token_id = finish.reason, finish.stop_token_id
            output.closed = finish.closed
            self._drop(sequence)
        return output

    def _accept(self, sequence: Sequence, token_id: int) -> Finish | None:
        """Append a sampled token and the tokens that the constraint forces after it."""
        if sequence.params.max_tokens == 0:  # only the prompt's logprobs were wanted
            return self.rules.limit_reached(sequence)
        return self.rules.accept(sequence, token_id) or self._force(sequence)

    def _force(self, sequence: Sequence) -> Finish | None:
        if self.config.forced_tokens and sequence.may_be_forced:
            assert sequence.constraint is not None
            with raise_too_complex():
                forced = sequence.constraint.forced_tokens()
            for token_id in forced:
                finish = self.rules.accept(sequence, token_id)
                sequence.num_forced_tokens += 1
                self._num_forced += 1
                if finish is not None:
                    return finish
        return None

    def _constraint_failed(
        self, sequence: Sequence, error: Exception, *, of_request: bool = False
    ) -> TokenOutput:
        """`of_request`: a ValueError is the request's fault, any other exception is a bug."""
        problem = f"The constraint failed: {error}"
        if isinstance(error, ConstraintTooComplex) or (
            of_request and isinstance(error, ValueError)
        ):
            logger.warning("the constraint of %s failed", sequence.request_id)
            return self._fail(sequence, problem, fault="constraint")
        logger.error("bug: the constraint of %s failed", sequence.request_id, exc_info=error)
        return self._fail(sequence, problem)

    def _fail(
        self,
        sequence: Sequence,
        problem: str,
        *,
        poisoned: bool = False,
        fault: Fault | None = None,
    ) -> TokenOutput:
        """`poisoned`: the keys and values may hold NaN, so the prefix cache forgets them."""
        freed = self._drop(sequence)
        if poisoned:
            self.pool.forget(freed)
            self.runner.clear_blocks(freed)
        return TokenOutput(sequence.request_id, [], "error", error=problem, fault=fault)

    def _drop(self, sequence: Sequence) -> list[int]:
        del self._sequences[sequence.request_id]
        sequence.pending_rows = NO_ROWS
        sequence.constraint = None  # a launched step may still hold the sequence; fill no mask
        return self.scheduler.finish(sequence)
