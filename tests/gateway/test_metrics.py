"""Metric names, labels and counts, as a dashboard written for vLLM reads them."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from formgate.engine.messages import EngineReady, EngineStats, TokenOutput
from formgate.gateway.metrics import MAX_REFUSED_KEYWORDS, Metrics

NAMES = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:num_preemptions_total",
    "vllm:prompt_tokens_total",
    "vllm:prompt_tokens_cached_total",
    "vllm:generation_tokens_total",
    "vllm:request_success_total",
    "vllm:time_to_first_token_seconds_bucket",
    "vllm:inter_token_latency_seconds_bucket",
    "vllm:request_time_per_output_token_seconds_bucket",
    "vllm:e2e_request_latency_seconds_bucket",
    "vllm:request_queue_time_seconds_bucket",
    "vllm:request_prefill_time_seconds_bucket",
    "vllm:request_decode_time_seconds_bucket",
    "vllm:request_inference_time_seconds_bucket",
    "vllm:request_params_n_bucket",
    "vllm:request_params_max_tokens_bucket",
    "vllm:request_max_num_generation_tokens_bucket",
    "vllm:request_prompt_tokens_bucket",
    "vllm:request_generation_tokens_bucket",
    "vllm:iteration_tokens_total_bucket",
    "vllm:lora_requests_info",
    "vllm:cache_config_info",
    "formgate:grammar_compile_seconds_bucket",
    "formgate:grammar_wait_seconds_bucket",
    "formgate:mask_time_seconds_bucket",
    "formgate:mask_wait_seconds_bucket",
    "formgate:forced_tokens_total",
    "formgate:grammar_cache_hits_total",
    "formgate:schemas_refused_total",
    "formgate:structured_answers_invalid_total",
    "formgate:structured_answers_checked_total",
    "formgate:structured_answers_unchecked_total",
    "formgate:requests_aborted_by_disconnect_total",
    "formgate:engine_restarts_total",
)


PROCESS_NAMES = (
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_cpu_seconds_total",
    "process_start_time_seconds",
    "process_open_fds",
    "process_max_fds",
    "python_info",
    "python_gc_collections_total",
)


def samples(metrics: Metrics) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(metrics: Metrics, name: str) -> float:
    return sum(number for _, number in samples(metrics)[name])


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("m")


def test_every_metric_is_there_with_its_labels(metrics: Metrics) -> None:
    metrics.engine_ready(EngineReady(2048, 100, 16, 300, "cpu", "float32"), prefix_caching=True)
    metrics.schema_refused("not")
    found = samples(metrics)
    assert not [name for name in NAMES if name not in found]
    for name in NAMES:
        for labels, _ in found[name]:
            assert (labels["model_name"], labels["engine"]) == ("m", "0")
    assert all(number >= 0 for name in PROCESS_NAMES for _, number in found[name])
    assert found["vllm:cache_config_info"][0][0]["num_gpu_blocks"] == "100"


def test_the_adapters_in_use(metrics: Metrics) -> None:
    ready = EngineReady(2048, 100, 16, 300, "cpu", "float32")
    metrics.engine_ready(ready, prefix_caching=True, max_loras=4)

    def shown() -> tuple[str, str, str]:
        ((labels, seconds),) = samples(metrics)["vllm:lora_requests_info"]
        assert seconds > 1e9  # the time of the last change
        names = ("max_lora", "waiting_lora_adapters", "running_lora_adapters")
        found = tuple(labels[name] for name in names)
        assert len(found) == 3
        return found

    assert shown() == ("4", "", "")
    metrics.engine_step(
        EngineStats(3, 2, 0.25, running_adapters=["a", "b"], waiting_adapters=["c"])
    )
    assert shown() == ("4", "c", "a,b")
    metrics.engine_step(EngineStats(0, 0, 0.0))
    assert shown() == ("4", "", "")


def test_a_step_moves_gauges_and_counters(metrics: Metrics) -> None:
    step = EngineStats(3, 2, 0.25, 1, 100, 40, 64, 7, 0.001, 0.0002)
    metrics.engine_step(step)
    metrics.engine_step(step)
    assert value(metrics, "vllm:num_requests_running") == 3
    assert value(metrics, "vllm:num_requests_waiting") == 2
    assert value(metrics, "vllm:kv_cache_usage_perc") == 0.25
    assert value(metrics, "vllm:num_preemptions_total") == 2
    assert value(metrics, "vllm:prefix_cache_queries_total") == 200
    assert value(metrics, "vllm:prefix_cache_hits_total") == 80
    assert value(metrics, "vllm:iteration_tokens_total_sum") == 128
    assert value(metrics, "formgate:forced_tokens_total") == 14
    assert value(metrics, "formgate:mask_time_seconds_sum") == pytest.approx(0.002)
    metrics.engine_restarting()
    assert value(metrics, "vllm:num_requests_running") == 0
    assert value(metrics, "vllm:kv_cache_usage_perc") == 0


def test_a_request_is_counted_from_its_outputs(metrics: Metrics) -> None:
    record = metrics.request(num_prompt_tokens=10, max_tokens=7)
    record.output(TokenOutput("r", [1], num_cached_tokens=8, queue_time=0.5))
    record.output(TokenOutput("r", [2, 3]))
    record.output(TokenOutput("r", [4], "stop"))
    record.finish("stop")
    assert value(metrics, "vllm:prompt_tokens_total") == 10
    assert value(metrics, "vllm:prompt_tokens_cached_total") == 8
    assert value(metrics, "vllm:generation_tokens_total") == 4
    assert value(metrics, "vllm:time_to_first_token_seconds_count") == 1
    assert value(metrics, "vllm:inter_token_latency_seconds_count") == 2
    assert value(metrics, "vllm:request_queue_time_seconds_sum") == 0.5
    assert value(metrics, "vllm:request_generation_tokens_sum") == 4
    assert value(metrics, "vllm:request_params_max_tokens_sum") == 7
    whole = value(metrics, "vllm:request_inference_time_seconds_sum")
    parts = ("prefill", "decode")
    times = [value(metrics, f"vllm:request_{part}_time_seconds_sum") for part in parts]
    assert whole == pytest.approx(sum(times), abs=1e-6) or whole == 0
    reasons = {
        labels["finished_reason"]: number
        for labels, number in samples(metrics)["vllm:request_success_total"]
    }
    assert reasons == {"stop": 1, "length": 0, "abort": 0, "error": 0}


def test_a_client_cannot_make_series_without_end(metrics: Metrics) -> None:
    for i in range(2 * MAX_REFUSED_KEYWORDS):
        metrics.schema_refused(f"made-up-{i}")
    assert len(samples(metrics)["formgate:schemas_refused_total"]) <= MAX_REFUSED_KEYWORDS + 1
    assert value(metrics, "formgate:schemas_refused_total") == 2 * MAX_REFUSED_KEYWORDS


def test_a_client_cannot_name_methods_without_end(metrics: Metrics) -> None:
    for method in ("GET", "BREW", "get", "WHEN"):
        metrics.http_response("/v1/models", method, 405)
    counted = {
        labels["method"]: number for labels, number in samples(metrics)["http_requests_total"]
    }
    assert counted == {"GET": 1, "other": 3}
