"""How several ranks start, on one node and on two; and the line that an operator reads when they
cannot.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from formgate.engine.config import EngineConfig
from formgate.engine.devices import CpuThreads
from formgate.engine.errors import EngineStartError
from formgate.engine.execution import follower
from formgate.engine.execution.leading_runner import LeadingRunner, start_runner
from formgate.engine.execution.memory import fullest_rank
from formgate.engine.layers.parameter import FileTensor
from formgate.engine.ranks import leader
from formgate.engine.ranks.connection import send_message
from formgate.engine.ranks.layout import RankLayout
from formgate.engine.ranks.messages import ClearBlocks, Hello
from formgate.engine.ranks.processes import CANNOT_START, FollowerLaunch, model_digest

TWO_NODES = {"tensor_parallel_size": 2, "nnodes": 2}


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        number: int = probe.getsockname()[1]
        return number


def start_node_1(folder: Path, port: int) -> tuple[threading.Thread, list[int]]:
    """Rank 1 of two, on a node of its own; a thread, and its exit code."""
    launch = FollowerLaunch(1, 0, 1, 0, str(folder), master=("127.0.0.1", port))
    codes: list[int] = []

    def run() -> None:
        control, inbox = follower.connect(launch)
        with control, contextlib.closing(inbox):
            codes.append(follower.follow(launch, control, inbox))

    thread = threading.Thread(target=run)
    thread.start()
    return thread, codes


def say_hello(port: int, hello: Hello | None) -> socket.socket:
    """Connect as soon as node 0 listens."""
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            connection = socket.create_connection(("127.0.0.1", port))
            break
        threading.Event().wait(0.01)
    if hello is None:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
    else:
        send_message(connection, hello)
    return connection


def test_two_nodes_answer_what_one_rank_does(
    threads, make_engine, llama_dir, prompts, port
) -> None:
    """Whoever else connects to the port is not a rank."""
    expected = [make_engine().generate(prompt).token_ids for prompt in prompts]
    strangers: list[socket.socket] = []

    def come() -> None:
        strangers.append(say_hello(port, None))
        strangers.append(say_hello(port, Hello(7, model_digest(llama_dir))))

    others = threading.Thread(target=come)
    others.start()
    node, codes = start_node_1(llama_dir, port)
    driver = make_engine(**TWO_NODES, master_port=port)
    assert [driver.generate(prompt).token_ids for prompt in prompts] == expected
    driver.engine.close()
    node.join(30)
    others.join(30)
    assert codes == [0]
    for stranger in strangers:
        stranger.close()


def test_a_node_with_another_model_is_refused(
    make_engine, tmp_path: Path, port: int, llama_dir: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    visitors: list[socket.socket] = []
    digest = model_digest(tmp_path)
    visit = threading.Thread(target=lambda: visitors.append(say_hello(port, Hello(1, digest))))
    visit.start()
    with pytest.raises(EngineStartError, match="Node 1 serves another model than node 0"):
        make_engine(**TWO_NODES, master_port=port)
    visit.join(30)
    visitors[0].close()


def test_a_port_in_use_is_named(make_engine) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(EngineStartError, match="--master-port a free port"),
    ):
        make_engine(**TWO_NODES, master_port=taken.getsockname()[1])


def test_what_fails_on_another_rank_is_said_by_its_number(
    threads, make_engine, monkeypatch, tmp_path: Path, llama_dir: Path
) -> None:
    """A node's disk may lack a file that rank 0 has."""
    (tmp_path / "config.json").write_bytes((llama_dir / "config.json").read_bytes())
    start = leader.start_follower
    started: list = []

    def elsewhere(launch: FollowerLaunch) -> object:
        launch.model_dir = str(tmp_path)
        started.append(start(launch))
        return started[-1]

    monkeypatch.setattr(leader, "start_follower", elsewhere)
    with pytest.raises(EngineStartError, match=r"^Rank 1: .* holds no \.safetensors file$"):
        make_engine(tensor_parallel_size=2)
    assert started[0].wait(30) == CANNOT_START


def test_a_disk_that_fails_on_another_rank_is_said(threads, make_engine, monkeypatch) -> None:
    """It is no end of the connection to rank 0, which is an OSError too."""

    def fail(*args: object, **options: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(follower, "ModelRunner", fail)
    with pytest.raises(EngineStartError, match=r"Rank 1: OSError: \[Errno 5\] Input/output error"):
        make_engine(tensor_parallel_size=2)


def test_a_rank_that_does_not_come_up_is_named(make_engine, monkeypatch) -> None:
    start = leader.start_follower
    monkeypatch.setattr(leader, "start_follower", lambda launch: start(launch, ("false",)))
    with pytest.raises(EngineStartError, match="lost rank 1: its process ended with exit code 1"):
        make_engine(tensor_parallel_size=2)


def test_a_rank_lost_while_rank_0_waits_is_reported_by_a_thread(
    threads, llama_dir: Path, monkeypatch
) -> None:
    """On a GPU rank 0 may wait for ever in the driver for a rank that is gone."""
    monkeypatch.setattr(leader, "GRACE", 0.0)
    reports: queue.Queue[str] = queue.Queue()
    config = EngineConfig(
        model_dir=llama_dir, dtype="float32", tensor_parallel_size=2, kv_cache_memory_bytes=1 << 20
    )
    runner = start_runner(config, progress=lambda *report: None, on_lost=reports.put)
    assert isinstance(runner, LeadingRunner)
    assert runner.lost_rank() is None
    runner._ranks.send(ClearBlocks([1 << 40]))
    said = reports.get(timeout=30)
    assert said.startswith("Rank 1: IndexError")
    assert runner.lost_rank() == said
    runner.close()


@pytest.mark.parametrize("size", [2, 4])
def test_a_rank_reads_its_share_of_the_file(
    threads, make_engine, llama_dir: Path, monkeypatch, size: int
) -> None:
    read = FileTensor.read
    bytes_read: list[int] = []

    def count(self: FileTensor) -> torch.Tensor:
        tensor = read(self)
        bytes_read.append(tensor.nbytes)
        return tensor

    monkeypatch.setattr(FileTensor, "read", count)
    make_engine()
    whole = sum(bytes_read)
    bytes_read.clear()
    make_engine(tensor_parallel_size=size)
    # All ranks together: matrices once, but norms, and keys and values of shared heads, by each.
    keys_and_values = 2 * 2 * 16 * 32 * 4
    norms = 5 * 32 * 4
    shared = (size - 1) * norms + (size // 2 - 1) * keys_and_values
    assert sum(bytes_read) == whole + shared


def test_more_ranks_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cuda = torch.device("cuda", 0)
    leader.check_devices(RankLayout(4, 2, 0), cuda)
    with pytest.raises(EngineStartError, match="needs 4 GPUs on each node; this one has 2: lower"):
        leader.check_devices(RankLayout(4, 1, 0), cuda)
    leader.check_devices(RankLayout(4, 1, 0), torch.device("cpu"))


def test_layouts() -> None:
    config = EngineConfig(model_dir=Path(), tensor_parallel_size=6, nnodes=2)
    assert RankLayout.of(config).local_ranks == range(3)
    assert RankLayout.of(config).remote_ranks == range(3, 6)
    assert RankLayout.of(replace(config, node_rank=1)).local_ranks == range(3, 6)
    with pytest.raises(EngineStartError, match="multiple of --nnodes"):
        RankLayout.of(replace(config, nnodes=4))


def test_a_gpu_that_others_fill_is_named() -> None:
    gib = 1 << 30
    assert fullest_rank([5 * gib, 5 * gib + 1]) == (5 * gib, "")
    least, where = fullest_rank([70 * gib, 9 * gib, 70 * gib])
    assert least == 9 * gib
    assert "free the GPU of rank 1: it has 61.0 GiB less" in where


def test_ranks_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr("formgate.engine.devices.usable_cpus", lambda: 8)
    for sharers in (1, 2, 3, 16):
        CpuThreads(sharers=sharers)
    assert set_to == [8, 4, 2, 1]
