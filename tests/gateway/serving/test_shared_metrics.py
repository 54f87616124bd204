"""The metrics of several processes, added up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from formgate.engine.messages import EngineReady, TokenOutput
from formgate.gateway.metrics import Metrics
from formgate.gateway.serving.shared_metrics import END, SharedMetrics, added_up


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
        record = metrics.request(4, 2)
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
    alone = samples(processes[0].exposition().decode())
    for name, times in (("process_resident_memory_bytes", 2), ("process_max_fds", 1)):
        assert found[name, ""] >= 0.9 * times * alone[name, ""]
    for name in ("process_max_fds", "process_start_time_seconds"):
        assert found[name, ""] == alone[name, ""]
    assert text.count("# TYPE vllm:generation_tokens_total ") == 1
    assert alone.keys() == {key for key in found if "patternProperties" not in key[1]}


@pytest.mark.parametrize("cut", [0, 1, 7, 100, 5000])
def test_a_process_that_dies_while_it_tells_is_left_out(tmp_path: Path, cut: int) -> None:
    """`cut`: how many bytes of what it would have told are missing."""

    async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        whole = Metrics("m").exposition() + END.encode()
        writer.write(whole[: len(whole) - cut])
        writer.close()

    async def test() -> None:
        own = Metrics("m")
        own.client_disconnected()
        async with await asyncio.start_unix_server(tell, tmp_path / "peer"):
            shared = SharedMetrics(own, tmp_path / "own", [tmp_path / "peer", tmp_path / "none"])
            found = samples((await shared.exposition()).decode())
        assert found["formgate:requests_aborted_by_disconnect_total", "0/m"] == 1
        alone = samples(own.exposition().decode())["process_resident_memory_bytes", ""]
        both = found["process_resident_memory_bytes", ""]
        assert (both > 1.5 * alone) == (cut == 0)

    asyncio.run(test())
