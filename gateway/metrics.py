"""The server's Prometheus metrics: vLLM's names, so that existing dashboards work, and formgate's
own. Other parts report events here; this module calls none of them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from formgate.constrain.answer_check import UNCHECKED_REASONS, UncheckedReason
from formgate.engine.messages import EngineReady, EngineStats, TokenOutput
from formgate.gateway.histograms import (
    CHOICE_BUCKETS,
    COMPILE_BUCKETS,
    COUNT_BUCKETS,
    FIRST_TOKEN_BUCKETS,
    ITERATION_BUCKETS,
    LABELS,
    MASK_BUCKETS,
    REQUEST_BUCKETS,
    TOKEN_BUCKETS,
    TallyHistogram,
)

MAX_REFUSED_KEYWORDS = 100
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """All metrics of one server, in a registry of its own."""

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._labels = (model_name, "0")
        self._responses = Counter(
            "http_requests",
            "HTTP requests, by route, method and status of the response.",
            ("handler", "method", "status"),
            registry=self.registry,
        )

        self._running = self._gauge("vllm:num_requests_running", "Requests in the running batch.")
        self._waiting = self._gauge("vllm:num_requests_waiting", "Requests waiting to run.")
        self._cache_usage = self._gauge("vllm:kv_cache_usage_perc", "KV cache in use, 0 to 1.")
        self._cache_queries = self._counter(
            "vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache."
        )
        self._cache_hits = self._counter(
            "vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache."
        )
        self._preemptions = self._counter("vllm:num_preemptions", "Sequences preempted.")
        self.prompt_tokens = self._counter("vllm:prompt_tokens", "Prompt tokens processed.")
        self.prompt_tokens_cached = self._counter(
            "vllm:prompt_tokens_cached", "Prompt tokens served from the prefix cache."
        )
        self.generation_tokens = self._counter("vllm:generation_tokens", "Tokens generated.")
        self._success = Counter(
            "vllm:request_success",
            "Requests finished.",
            (*LABELS, "finished_reason"),
            registry=self.registry,
        )
        for reason in ("stop", "length", "abort", "error"):
            self._success.labels(*self._labels, reason)

        self.time_to_first_token = self._histogram(
            "vllm:time_to_first_token_seconds", "Arrival to first token.", FIRST_TOKEN_BUCKETS
        )
        self.inter_token_latency = TallyHistogram(
            "vllm:inter_token_latency_seconds",
            "Time between outputs.",
            TOKEN_BUCKETS,
            self._labels,
        )
        self.registry.register(self.inter_token_latency)
        self.time_per_output_token = self._histogram(
            "vllm:request_time_per_output_token_seconds",
            "Mean time per token after the first, of each request.",
            TOKEN_BUCKETS,
        )
        self.request_latency = self._histogram(
            "vllm:e2e_request_latency_seconds", "Arrival to last token.", REQUEST_BUCKETS
        )
        self.queue_time = self._histogram(
            "vllm:request_queue_time_seconds", "Arrival to first schedule.", REQUEST_BUCKETS
        )
        self.inference_time = self._histogram(
            "vllm:request_inference_time_seconds", "First schedule to last token.", REQUEST_BUCKETS
        )
        self.prefill_time = self._histogram(
            "vllm:request_prefill_time_seconds", "First schedule to first token.", REQUEST_BUCKETS
        )
        self.decode_time = self._histogram(
            "vllm:request_decode_time_seconds", "First token to last.", REQUEST_BUCKETS
        )
        self.request_prompt_tokens = self._histogram(
            "vllm:request_prompt_tokens", "Prompt tokens of each request.", COUNT_BUCKETS
        )
        self.request_generation_tokens = self._histogram(
            "vllm:request_generation_tokens", "Tokens generated for each request.", COUNT_BUCKETS
        )
        self.request_max_tokens = self._histogram(
            "vllm:request_params_max_tokens",
            "Token limit of each choice.",
            COUNT_BUCKETS,
        )
        self._choices = self._histogram(
            "vllm:request_params_n", "Choices of each prompt.", CHOICE_BUCKETS
        )
        self._longest_choice = self._histogram(
            "vllm:request_max_num_generation_tokens",
            "Tokens of the longest choice of each prompt.",
            COUNT_BUCKETS,
        )
        self._iteration_tokens = self._histogram(
            "vllm:iteration_tokens_total", "Query tokens of each engine step.", ITERATION_BUCKETS
        )
        self._lora_info = Gauge(
            "vllm:lora_requests_info",
            "Adapters in use.",
            (*LABELS, "max_lora", "waiting_lora_adapters", "running_lora_adapters"),
            registry=self.registry,
        )
        self._loras: tuple[str, str, str] = ("", "", "")
        self._max_loras = 0
        self._set_loras(0, [], [])
        self._cache_info = Gauge(
            "vllm:cache_config_info",
            "Layout of the KV cache.",
            (*LABELS, "block_size", "num_gpu_blocks", "cache_dtype", "enable_prefix_caching"),
            registry=self.registry,
        )

        self._mask_time = self._histogram(
            "formgate:mask_time_seconds", "Filling the bitmasks of one step.", MASK_BUCKETS
        )
        self._mask_wait = self._histogram(
            "formgate:mask_wait_seconds",
            "Time that sampling waited for the bitmasks after the forward pass.",
            MASK_BUCKETS,
        )
        self._forced_tokens = self._counter(
            "formgate:forced_tokens", "Tokens that the grammar forced."
        )
        self._compile_time = self._histogram(
            "formgate:grammar_compile_seconds",
            "Time to compile one grammar, shared by all requests that wait for it.",
            COMPILE_BUCKETS,
        )
        self._compile_wait = self._histogram(
            "formgate:grammar_wait_seconds",
            "Time that a request waited for its grammar.",
            COMPILE_BUCKETS,
        )
        self._grammar_queries = self._counter(
            "formgate:grammar_cache_queries", "Grammars looked up."
        )
        self._grammar_hits = self._counter(
            "formgate:grammar_cache_hits", "Grammars found in the cache."
        )
        self._refused_keywords: set[str] = set()
        self._refused = Counter(
            "formgate:schemas_refused",
            "Schemas refused, by the keyword that cannot be enforced.",
            (*LABELS, "keyword"),
            registry=self.registry,
        )
        self._unenforced = Counter(
            "formgate:tool_keywords_unenforced",
            "Requests with a tool that is not strict, by the keyword of it that was left out.",
            (*LABELS, "keyword"),
            registry=self.registry,
        )
        self._checked = self._counter(
            "formgate:structured_answers_checked", "Finished structured answers validated."
        )
        self._invalid = self._counter(
            "formgate:structured_answers_invalid",
            "Validated answers that were invalid. Must stay 0.",
        )
        self._unchecked = Counter(
            "formgate:structured_answers_unchecked",
            "Structured answers not validated, by reason.",
            (*LABELS, "reason"),
            registry=self.registry,
        )
        for reason in UNCHECKED_REASONS:
            self._unchecked.labels(*self._labels, reason)
        self._validating = self._gauge(
            "formgate:structured_answers_waiting", "Structured answers waiting for validation."
        )
        self._disconnects = self._counter(
            "formgate:requests_aborted_by_disconnect",
            "Requests aborted because the client disconnected.",
        )
        self._engine_starts = self._counter(
            "formgate:engine_restarts", "Restarts of the engine process."
        )

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, LABELS, registry=self.registry).labels(*self._labels)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, LABELS, registry=self.registry).labels(*self._labels)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, text, LABELS, registry=self.registry, buckets=buckets).labels(
            *self._labels
        )

    def exposition(self) -> bytes:
        return generate_latest(self.registry)

    async def own_exposition(self) -> bytes:
        """`exposition` for a server of one HTTP process; see `SharedMetrics` for several."""
        return self.exposition()

    # What the engine reports.

    def engine_ready(self, ready: EngineReady, *, prefix_caching: bool, max_loras: int = 0) -> None:
        self._max_loras = max_loras
        self._set_loras(max_loras, [], [])
        self._cache_info.clear()
        self._cache_info.labels(
            *self._labels,
            str(ready.block_size),
            str(ready.num_blocks),
            ready.dtype,
            str(prefix_caching),
        ).set(1)

    def engine_step(self, stats: EngineStats) -> None:
        self._set_loras(self._max_loras, stats.waiting_adapters, stats.running_adapters)
        self._running.set(stats.num_running)
        self._waiting.set(stats.num_waiting)
        self._cache_usage.set(stats.kv_cache_usage)
        if stats.num_preemptions:
            self._preemptions.inc(stats.num_preemptions)
        if stats.prefix_cache_queries:
            self._cache_queries.inc(stats.prefix_cache_queries)
            self._cache_hits.inc(stats.prefix_cache_hits)
        if stats.num_batched_tokens:
            self._iteration_tokens.observe(stats.num_batched_tokens)
        if stats.num_forced_tokens:
            self._forced_tokens.inc(stats.num_forced_tokens)
        if stats.mask_time:
            self._mask_time.observe(stats.mask_time)
            self._mask_wait.observe(stats.mask_wait)

    def _set_loras(self, most: int, waiting: Sequence[str], running: Sequence[str]) -> None:
        """vLLM's gauge: the names are labels, and the value is the time of their last change."""
        loras = (str(most), ",".join(waiting), ",".join(running))
        if loras != self._loras:
            self._loras = loras
            self._lora_info.clear()
            self._lora_info.labels(*self._labels, *loras).set_to_current_time()

    def engine_restarting(self) -> None:
        """Reset the gauges, which still show the requests of the dead engine."""
        self._running.set(0)
        self._waiting.set(0)
        self._cache_usage.set(0)
        self._engine_starts.inc()

    # What the services report.

    def http_response(self, handler: str, method: str, status: int) -> None:
        """`handler`: the route's template, or "none". A client's path would create any number of
        series."""
        method = method if method in METHODS else "other"
        self._responses.labels(handler, method, str(status)).inc()

    def request(self, num_prompt_tokens: int, max_tokens: int) -> RequestRecord:
        now = time.monotonic()
        return RequestRecord(self, num_prompt_tokens, max_tokens, arrival=now, first=now, last=now)

    def choices_ended(self, num_tokens: Sequence[int]) -> None:
        """Record one prompt's choices; `num_tokens` has an entry for each."""
        self._choices.observe(len(num_tokens))
        self._longest_choice.observe(max(num_tokens))

    def request_finished(self, reason: str) -> None:
        self._success.labels(*self._labels, reason).inc()

    def grammar_compiled(self, seconds: float) -> None:
        """May be called from any thread."""
        self._compile_time.observe(seconds)

    def grammar_found(self) -> None:
        self._grammar_queries.inc()
        self._grammar_hits.inc()

    def grammar_awaited(self, seconds: float) -> None:
        self._grammar_queries.inc()
        self._compile_wait.observe(seconds)

    def schema_refused(self, keyword: str) -> None:
        self._refused.labels(*self._labels, self._keyword(keyword)).inc()

    def keyword_unenforced(self, keyword: str) -> None:
        self._unenforced.labels(*self._labels, self._keyword(keyword)).inc()

    def _keyword(self, keyword: str) -> str:
        """The label. A client chooses the keyword and must not create any number of series."""
        if keyword not in self._refused_keywords:
            if len(self._refused_keywords) >= MAX_REFUSED_KEYWORDS or len(keyword) > 40:
                keyword = "other"
            self._refused_keywords.add(keyword)
        return keyword

    def structured_answer_invalid(self) -> None:
        self._invalid.inc()

    def structured_answers_waiting(self, count: int) -> None:
        self._validating.set(count)

    def structured_answer_checked(self) -> None:
        self._checked.inc()

    def structured_answer_unchecked(self, reason: UncheckedReason) -> None:
        self._unchecked.labels(*self._labels, reason).inc()

    def client_disconnected(self) -> None:
        self._disconnects.inc()


@dataclass(slots=True)
class RequestRecord:
    """The latencies of one sequence, measured as its outputs arrive."""

    metrics: Metrics
    num_prompt_tokens: int
    max_tokens: int
    arrival: float  # time.monotonic(), seconds
    first: float
    last: float
    num_generated: int = 0
    queue_time: float = 0.0

    def output(self, output: TokenOutput) -> None:
        if not output.token_ids:
            return
        now = time.monotonic()
        metrics = self.metrics
        if self.num_generated == 0:
            self.first = now
            self.queue_time = output.queue_time
            metrics.time_to_first_token.observe(now - self.arrival)
            metrics.prompt_tokens.inc(self.num_prompt_tokens)
            if output.num_cached_tokens:
                metrics.prompt_tokens_cached.inc(output.num_cached_tokens)
        else:
            metrics.inter_token_latency.observe(now - self.last)
        self.last = now
        self.num_generated += len(output.token_ids)
        metrics.generation_tokens.inc(len(output.token_ids))

    def finish(self, reason: str) -> None:
        metrics = self.metrics
        metrics.request_finished(reason)
        if self.num_generated == 0:
            return
        metrics.request_latency.observe(self.last - self.arrival)
        metrics.queue_time.observe(self.queue_time)
        metrics.prefill_time.observe(max(0.0, self.first - self.arrival - self.queue_time))
        metrics.decode_time.observe(self.last - self.first)
        metrics.inference_time.observe(max(0.0, self.last - self.arrival - self.queue_time))
        metrics.request_max_tokens.observe(self.max_tokens)
        metrics.request_prompt_tokens.observe(self.num_prompt_tokens)
        metrics.request_generation_tokens.observe(self.num_generated)
        if self.num_generated > 1:
            metrics.time_per_output_token.observe(
                (self.last - self.first) / (self.num_generated - 1)
            )
