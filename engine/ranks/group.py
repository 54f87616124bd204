"""The process group of the ranks: NCCL on CUDA and gloo on a CPU, over a store that listens on
rank 0's host. Nothing listens beyond loopback if all ranks are on one host.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store, TCPStore

from formgate.engine.errors import EngineStartError
from formgate.engine.layers.parallel import TensorParallel
from formgate.engine.ranks.layout import LOOPBACK
from formgate.engine.ranks.peer_memory import share_memory

# A collective may wait this long for a rank that starts more slowly. Hung steps are found earlier,
# by the engine's watchdog.
TIMEOUT = timedelta(minutes=60)
POLL_INTERVAL = 0.05  # seconds


def no_rank_lost() -> str | None:
    return None


@dataclass(frozen=True)
class RankGroup:
    """This rank's place among all, with the group of their collectives."""

    parallel: TensorParallel
    local_size: int  # ranks that share this host's cores
    store: Store
    lost: Callable[[], str | None] = no_rank_lost  # why another rank is gone, if it is

    def wait_loaded(self, progress: Callable[[str, int, int], None]) -> None:
        """On rank 0, wait until each rank has called this, and report progress meanwhile: whoever
        watches this process must not think that it hangs. Raises EngineStartError if a rank is
        gone.
        """
        rank, size = self.parallel.rank, self.parallel.size
        self.store.set(f"loaded/{rank}", "")
        if rank:
            return
        waiting = set(range(size))
        while waiting:
            waiting -= {other for other in waiting if self.store.check([f"loaded/{other}"])}
            progress("waiting for all ranks", size - len(waiting), size)
            if (reason := self.lost()) is not None:
                raise EngineStartError(reason)
            if waiting:
                time.sleep(POLL_INTERVAL)


def make_store(listener: socket.socket) -> TCPStore:
    """Rank 0's store, on a bound socket, which it takes over."""
    host, port = listener.getsockname()[:2]
    return TCPStore(
        host,
        port,
        is_master=True,
        timeout=TIMEOUT,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def join_store(host: str, port: int) -> TCPStore:
    return TCPStore(host, port, is_master=False, timeout=TIMEOUT, wait_for_workers=False)


def join_ranks(
    store: TCPStore, rank: int, size: int, device: torch.device, *, one_host: bool = True
) -> TensorParallel:
    """Wait until every rank calls this, and return this rank's place in their group. `one_host`:
    whether all ranks are on this host, whose GPUs may share memory.
    """
    # Of the single backend; torch's stubs do not know its options.
    backend: Any = dist.ProcessGroupNCCL if device.type == "cuda" else dist.ProcessGroupGloo
    if device.type == "cuda":
        options = backend.Options()
    else:
        options = backend._Options()
        options._devices = [backend.create_device(hostname=_own_address(store.host))]
    options._timeout = TIMEOUT
    group: dist.ProcessGroup = backend(store, rank, size, options)
    peers = None
    if device.type == "cuda" and one_host and size > 1:
        peers = share_memory(store, rank, size, device)
    return TensorParallel(rank, size, group, peers)


def _own_address(master: str) -> str:
    """The address of this host that reaches rank 0's. The host's name may stand for another."""
    if master == LOOPBACK:
        return LOOPBACK
    family = socket.AF_INET6 if ":" in master else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((master, 9))  # sends nothing
        address: str = probe.getsockname()[0]
        return address
