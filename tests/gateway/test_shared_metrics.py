"""The metrics of several processes, added up."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from formgate.engine.messages import EngineReady, TokenOutput
from formgate.gateway.metrics import Metrics
from formgate.gateway.shared_metrics import added_up


def samples(text: str) -> dict[tuple[str, str], float]:
    return {
        (sample.name, "/".join(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counts_and_buckets_are_sums_and_descriptions_are_said_once() -> None:
    processes = [Metrics("m"), Metrics("m")]
    for metrics in processes:
        metrics.engine_ready(EngineReady(8, 9, 16, 300, "cpu", "float32"), prefix_caching=True)
        record = metrics.request(4)
        record.output(TokenOutput("r", [1]))
        record.output(TokenOutput("r", [2]))
    processes[1].schema_refused("patternProperties")
    text = added_up([each.exposition().decode() for each in processes])
    found = samples(text)
    assert found["vllm:generation_tokens_total", "0/m"] == 4
    assert found["vllm:inter_token_latency_seconds_count", "0/m"] == 2
    assert found["vllm:inter_token_latency_seconds_bucket", "0/+Inf/m"] == 2
    assert found["vllm:cache_config_info", "16/float32/True/0/m/9"] == 1
    assert found["formgate:schemas_refused_total", "0/patternProperties/m"] == 1
    assert text.count("# TYPE vllm:generation_tokens_total ") == 1
    alone = samples(processes[0].exposition().decode())
    assert alone.keys() == {key for key in found if "patternProperties" not in key[1]}
