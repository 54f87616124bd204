"""An all-reduce over the GPUs of this host, in CUDA graphs: NCCL, torch's one-shot and two-shot
operations over symmetric memory, and what formgate chooses, by size. Microseconds of one reduce.

    python benchmarks/all_reduce.py --ranks 2
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
from collections.abc import Callable

import torch
from graph_time import graph_milliseconds
from torch._C._distributed_c10d import _SymmetricMemory

from formgate.engine.layers.parallel import TensorParallel
from formgate.engine.ranks.group import join_ranks, join_store, make_store
from formgate.engine.ranks.peer_memory import GROUP, PeerMemory

SIZES = [8 << 10 << i for i in range(14)]  # 8 KB to 64 MB
MAX_BYTES = 64 << 20
IN_A_GRAPH = 20

Reduce = Callable[[torch.Tensor], object]


def ways(parallel: TensorParallel) -> dict[str, Reduce]:
    group, peers = parallel.group, parallel.peers
    assert group is not None
    assert isinstance(peers, PeerMemory)
    shared = _SymmetricMemory.empty_strided_p2p(
        (MAX_BYTES // 2,), (1,), torch.bfloat16, peers.buffer.device, GROUP
    )
    _SymmetricMemory.rendezvous(shared, GROUP)
    ops = torch.ops.symm_mem

    def two_shot(x: torch.Tensor) -> None:
        mine = shared[: x.numel()]
        mine.copy_(x)
        ops.two_shot_all_reduce_(mine, "sum", GROUP)
        x.copy_(mine)

    return {
        "NCCL": lambda x: group.allreduce([x]).wait(),
        "one-shot": lambda x: ops.one_shot_all_reduce_copy(shared[: x.numel()], x, "sum", GROUP),
        "two-shot": two_shot,
        "formgate": parallel.all_reduce,
    }


def measure(rank: int, size: int, port: int, listener: socket.socket | None) -> None:
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    store = make_store(listener) if listener is not None else join_store("127.0.0.1", port)
    parallel = join_ranks(store, rank, size, device)
    reduces = ways(parallel)
    for name, reduce in reduces.items():  # each gives the sum
        x = torch.full((1 << 20,), float(rank + 1), dtype=torch.bfloat16, device=device)
        out = reduce(x)
        result = out if isinstance(out, torch.Tensor) else x
        assert torch.all(result == sum(range(1, size + 1))), name
    if rank == 0:
        print("bytes", *reduces, sep="\t", flush=True)
    for nbytes in SIZES:
        times = []
        for reduce in reduces.values():
            x = torch.zeros(nbytes // 2, dtype=torch.bfloat16, device=device)

            def work(reduce: Reduce = reduce, x: torch.Tensor = x) -> None:
                for _ in range(IN_A_GRAPH):
                    reduce(x)

            parallel.all_numbers(0, device)
            times.append(graph_milliseconds(work, 9) * 1000 / IN_A_GRAPH)
        if rank == 0:
            print(nbytes, *(f"{time:.1f}" for time in times), sep="\t", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, default=torch.cuda.device_count())
    parser.add_argument("--follow", nargs=2, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.follow:
        measure(args.follow[0], args.ranks, args.follow[1], None)
        return
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    command = [sys.executable, __file__, "--ranks", str(args.ranks), "--follow"]
    others = [subprocess.Popen([*command, str(rank), str(port)]) for rank in range(1, args.ranks)]
    try:
        measure(0, args.ranks, port, listener)
    finally:
        for other in others:
            other.wait(60)


if __name__ == "__main__":
    main()
